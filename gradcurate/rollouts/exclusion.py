"""Which rollouts to leave out of scores: truncated ones, or those that a file lists."""

import functools
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from gradcurate.errors import RolloutsError, first_line

Excluded = frozenset[tuple[str, int]]
"""Rollouts left out, by problem and number."""
TRUNCATED = "truncated"
COLUMNS = ("problem_id", "rollout")
EXCLUSION_COLUMNS = ["problem_id", "rollout", "finish_reason"]


def read_exclusion(spec: str, rollouts: pa.Table) -> Excluded:
    """Return the rollouts to leave out.

    Args:
        spec: ``truncated``, or a CSV, JSONL or Parquet file with the columns problem_id and rollout.
        rollouts: Those of the run, with `EXCLUSION_COLUMNS`.

    Raises:
        RolloutsError: The file cannot be read, or names a rollout that the run does not have.
    """
    if spec == TRUNCATED:
        listed = rollouts.filter(pc.equal(rollouts["finish_reason"], "length"))
        return frozenset(_keys(listed))
    found, known = frozenset(_keys(_read_list(Path(spec)))), frozenset(_keys(rollouts))
    unknown = sorted(found - known)
    if unknown:
        raise RolloutsError(
            "--exclude-rollouts must list rollouts of the run",
            f"rollout {unknown[0][1]} of problem {unknown[0][0]} is none of it, as {len(unknown) - 1} others",
            "Take problem_id and rollout from the run's rollouts/*.parquet.",
        )
    return found


def _read_list(path: Path) -> pa.Table:
    as_text = pyarrow.csv.ConvertOptions(column_types={COLUMNS[0]: pa.string()})  # 007 is not 7
    readers = {
        ".csv": functools.partial(pyarrow.csv.read_csv, convert_options=as_text),
        ".jsonl": pyarrow.json.read_json,
        ".parquet": pq.read_table,
    }
    try:
        table = readers[path.suffix](path).select(list(COLUMNS))
        return table.cast(pa.schema([(COLUMNS[0], pa.string()), (COLUMNS[1], pa.int64())]))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise RolloutsError(
            "--exclude-rollouts must be truncated, or a .csv, .jsonl or .parquet file with the columns "
            "problem_id and rollout",
            f"{path}: {type(error).__name__}: {first_line(error)}",
            "Correct the path or the file.",
        ) from error


def _keys(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(*(rows[name].to_pylist() for name in COLUMNS), strict=True))
