"""The rollouts that a gradient pass is owed: those of groups with a learning signal."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from gradcurate.problems.problem import Split

TOKEN_COLUMNS = ["problem_id", "rollout", "split", "prompt_token_ids", "completion_token_ids"]


@dataclass(frozen=True)
class LiveRollout:
    """One rollout of a scored group.

    Attributes:
        problem_id: Whose rollout it is.
        rollout: Its number.
        split: Of which split.
        prompt: The prompt's token ids.
        completion: The completion's token ids.
        weight: Its weight in the problem's gradient.
    """

    problem_id: str
    rollout: int
    split: Split
    prompt: Sequence[int]
    completion: Sequence[int]
    weight: float

    @property
    def tokens(self) -> int:
        """Return the length of prompt and completion."""
        return len(self.prompt) + len(self.completion)

    @property
    def identity(self) -> tuple[str, int]:
        """Return what no other rollout of the split has."""
        return self.problem_id, self.rollout


def live_rollouts(
    rollouts: pa.Table, split: Split, weights: Mapping[str, Mapping[int, float]]
) -> list[LiveRollout]:
    """Join one split's rollouts (with `TOKEN_COLUMNS`) with their weights; leave dead groups out.

    Token ids stay as compact as they are stored, for a pool can have billions of them.
    """
    mine = pc.and_(
        pc.equal(rollouts["split"], split),
        pc.is_in(rollouts["problem_id"], value_set=pa.array(weights, pa.string())),
    )
    rows = rollouts.filter(mine)
    ids, numbers = rows["problem_id"].to_pylist(), rows["rollout"].to_pylist()
    prompts, completions = (_token_arrays(rows[name]) for name in TOKEN_COLUMNS[-2:])
    return [
        LiveRollout(problem_id, rollout, split, prompt, completion, weights[problem_id][rollout])
        for problem_id, rollout, prompt, completion in zip(ids, numbers, prompts, completions, strict=True)
        if rollout in weights[problem_id]
    ]


def _token_arrays(column: pa.ChunkedArray) -> Iterator[Sequence[int]]:
    """Yield each row of a list column as an array of C integers."""
    for chunk in column.chunks:
        values = chunk.values.cast(pa.int32()).to_numpy()
        for start, stop in pairwise(chunk.offsets.to_pylist()):
            yield array("i", values[start:stop].tobytes())
