"""The rollouts that a gradient pass is owed: those of groups with a learning signal."""

from collections.abc import Mapping
from dataclasses import dataclass

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
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
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
    """Join one split's rollouts (with `TOKEN_COLUMNS`) with their weights; leave dead groups out."""
    mine = pc.and_(
        pc.equal(rollouts["split"], split),
        pc.is_in(rollouts["problem_id"], value_set=pa.array(weights, pa.string())),
    )
    return [
        LiveRollout(
            problem_id=row["problem_id"],
            rollout=row["rollout"],
            split=split,
            prompt=tuple(row["prompt_token_ids"]),
            completion=tuple(row["completion_token_ids"]),
            weight=weights[row["problem_id"]][row["rollout"]],
        )
        for row in rollouts.filter(mine).select(TOKEN_COLUMNS).to_pylist()
        if row["rollout"] in weights[row["problem_id"]]
    ]
