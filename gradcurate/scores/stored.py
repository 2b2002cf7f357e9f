"""Stored rows, a problem at a time, however they are spread over shards.

Shards are cut by length, so a problem's rollouts lie in many of them. Problems are read in blocks of so
many rows as fit in memory, each block with a pass over the split's shards.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from gradcurate.problems.problem import Split
from gradcurate.sketches.rows import unit_sketches
from gradcurate.store.tables import read_table, shard_paths

ROWS_AT_ONCE = 2**16
"""With 4,096 numbers of two bytes each: half a gibibyte."""
COLUMNS = ["problem_id", "rollout", "response_tokens", "norm", "directional", "sketch"]

Wanted = Mapping[str, Sequence[Any]]
"""The rollouts that are wanted of each problem, in their order; None is the number of a problem's own sum."""


@dataclass(frozen=True)
class StoredRows:
    """One problem's rows, in the order in which they were wanted.

    Attributes:
        problem_id: Whose rows they are.
        sketches: Their sketches; None where none were made.
        derivatives: Along the stored direction; NaN where they are not known.
        response_tokens: How long the responses are; of a sum, all of them together.
    """

    problem_id: str
    sketches: Float[np.ndarray, "R K"] | None
    derivatives: Float[np.ndarray, " R"]
    response_tokens: Int[np.ndarray, " R"]


def read_rows(folder: Path, split: Split, wanted: Wanted) -> Iterator[StoredRows]:
    """Yield the rows of each problem all of whose wanted rows are there."""
    for block in _blocks(wanted):
        yield from _read_block(folder, split, {problem_id: wanted[problem_id] for problem_id in block})


def _blocks(wanted: Wanted) -> Iterator[list[str]]:
    block: list[str] = []
    rows = 0
    for problem_id, rollouts in wanted.items():
        block.append(problem_id)
        rows += len(rollouts)
        if rows >= ROWS_AT_ONCE:
            yield block
            block, rows = [], 0
    if block:
        yield block


def _read_block(folder: Path, split: Split, wanted: Wanted) -> Iterator[StoredRows]:
    ids = pa.array(list(wanted), pa.string())
    shards = [path for path in shard_paths(folder) if path.name.startswith(f"{split}-")]
    found = [_of(read_table(path, COLUMNS), ids) for path in shards]  # one whole shard in memory at a time
    if not found:
        return
    rows = pa.concat_tables(found)
    keys = zip(rows["problem_id"].to_pylist(), rows["rollout"].to_pylist(), strict=True)
    places = {key: place for place, key in enumerate(keys)}
    unit = unit_sketches(rows)
    norms, response_tokens = rows["norm"].to_numpy(), rows["response_tokens"].to_numpy()
    derivatives = rows["directional"].cast(pa.float64()).to_numpy()  # null becomes NaN
    for problem_id, rollouts in wanted.items():
        at = [places.get((problem_id, rollout), -1) for rollout in rollouts]
        if -1 not in at:
            sketches = unit[at].astype(np.float32) * norms[at][:, None].astype(np.float32)
            known = None if np.isnan(sketches).any() else sketches
            yield StoredRows(problem_id, known, derivatives[at], response_tokens[at])


def _of(rows: pa.Table, ids: pa.Array) -> pa.Table:
    return rows.filter(pc.is_in(rows["problem_id"], value_set=ids))
