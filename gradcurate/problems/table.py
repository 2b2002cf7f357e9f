"""Problems as an Arrow table: the ``problems.parquet`` of a run directory.

``row`` is the record as JSON text (see `json_text` for what JSON has no type for), so one schema
fits every pool. A record of JSON's own types comes back equal.
"""

import json
from collections.abc import Sequence

import pyarrow as pa

from gradcurate.problems.json_text import json_text
from gradcurate.problems.problem import Problem

PROBLEMS_SCHEMA: pa.Schema = pa.schema(
    [
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("prompt_is_text", pa.bool_()),
        ("answer", pa.string()),
        ("row", pa.string()),
    ]
)


def problems_to_table(problems: Sequence[Problem]) -> pa.Table:
    """Return one row per problem, in order."""
    rows = [
        {**vars(problem), "prompt": list(problem.prompt), "row": json_text(problem.row)}
        for problem in problems
    ]
    return pa.Table.from_pylist(rows, schema=PROBLEMS_SCHEMA)


def table_to_problems(table: pa.Table) -> tuple[Problem, ...]:
    """Return the problems of a table made by `problems_to_table`, in order."""
    return tuple(
        Problem(**{**row, "prompt": tuple(row["prompt"]), "row": json.loads(row["row"])})
        for row in table.select(PROBLEMS_SCHEMA.names).to_pylist()
    )
