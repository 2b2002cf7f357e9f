"""The rollouts that a gradient pass is owed: those of groups with a learning signal."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from gradcurate.problems.problem import Split
from gradcurate.scores.advantages import AdvantageName
from gradcurate.scores.groups import Group
from gradcurate.scores.token_weights import TokenWeightName

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
    rollouts: pa.Table,
    groups: Iterable[Group],
    split: Split,
    advantage: AdvantageName,
    token_weight: TokenWeightName,
) -> list[LiveRollout]:
    """Join one split's rollouts (with `TOKEN_COLUMNS`) with their weights; leave dead groups out."""
    weights = {
        (group.problem_id, int(rollout)): float(weight)
        for group in groups
        if group.split == split and group.status == "scored"
        for rollout, weight in zip(group.rollouts_G, group.weights(advantage, token_weight), strict=True)
    }
    return [
        LiveRollout(
            row["problem_id"],
            row["rollout"],
            split,
            tuple(row["prompt_token_ids"]),
            tuple(row["completion_token_ids"]),
            weights[row["problem_id"], row["rollout"]],
        )
        for row in rollouts.select(TOKEN_COLUMNS).to_pylist()
        if row["split"] == split and (row["problem_id"], row["rollout"]) in weights
    ]
