"""Groups: what the rewards of a problem's rollouts say, before any gradient.

A rollout whose reward failed is no member of its group. A group without two different rewards has
no weights; its status says why, and its rollouts never reach the model's backward pass.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from gradcurate.problems.problem import Split
from gradcurate.scores.advantages import ADVANTAGES, FEWEST_REWARDS, AdvantageName, has_signal
from gradcurate.scores.signals import PASS_REWARD
from gradcurate.scores.token_weights import TOKEN_WEIGHTS, TokenWeightName

Status = Literal[
    "scored",
    "all_correct",
    "all_wrong",
    "constant_reward",
    "failed",
    "no_rollouts",
    "no_gradient",
    "no_score",
    "not_sketched",
]
"""``scored``: rewards differ. ``all_correct``: all are 1 or more. ``all_wrong``: all are 0 or less.
``constant_reward``: all are one value in between. ``failed``: fewer than two rewards came back.
``no_rollouts``: a trainer's dump has none of this problem, or all of them are left out.
``no_gradient``: rewards differ, but gradients cancel; only a score table knows (`scores.ranking`).
``no_score``: there is a gradient, but the score is undefined for it, as a quotient by zero is.
``not_sketched``: rewards differ since they were given again, and some of its rollouts have no sketch."""

GROUP_COLUMNS = ["problem_id", "split", "rollout", "reward", "completion_token_ids"]


@dataclass(frozen=True)
class Group:
    """The rollouts of one problem that have a reward.

    Attributes:
        problem_id: Whose rollouts they are.
        split: Of which split.
        rollouts_G: Their numbers.
        rewards_G: Their rewards.
        response_tokens_G: Their lengths.
        failed: How many more rollouts have no reward.
    """

    problem_id: str
    split: Split
    rollouts_G: Int[np.ndarray, " G"]
    rewards_G: Float[np.ndarray, " G"]
    response_tokens_G: Int[np.ndarray, " G"]
    failed: int

    @property
    def status(self) -> Status:
        """Say whether the group has a learning signal, and if not, why."""
        if len(self.rewards_G) < FEWEST_REWARDS:
            return "failed" if len(self.rewards_G) + self.failed else "no_rollouts"
        if has_signal(self.rewards_G):
            return "scored"
        if self.rewards_G.min() >= 1:
            return "all_correct"
        return "all_wrong" if self.rewards_G.max() <= 0 else "constant_reward"

    @property
    def pass_rate(self) -> float | None:
        """Return the share of rewards of at least `PASS_REWARD`; None without rewards."""
        return float((self.rewards_G >= PASS_REWARD).mean()) if len(self.rewards_G) else None

    def weights(self, advantage: AdvantageName, token_weight: TokenWeightName) -> Float[np.ndarray, " G"]:
        """Return each rollout's weight in the problem's gradient; only for a scored group."""
        advantages_G = ADVANTAGES[advantage](self.rewards_G, self.response_tokens_G)
        return advantages_G * TOKEN_WEIGHTS[token_weight](self.response_tokens_G)


def empty_group(problem_id: str, split: Split) -> Group:
    """Return the group of a problem without rollouts."""
    nothing = np.zeros(0)
    return Group(problem_id, split, nothing.astype(np.int64), nothing, nothing.astype(np.int64), failed=0)


def group_rollouts(rollouts: pa.Table) -> list[Group]:
    """Group a table of rollouts (with `GROUP_COLUMNS`) by split and problem, in order of the ids."""
    lengths = pc.list_value_length(rollouts["completion_token_ids"])
    flat = rollouts.drop_columns(["completion_token_ids"]).append_column("tokens", lengths)
    ordered = flat.sort_by([("split", "ascending"), ("problem_id", "ascending"), ("rollout", "ascending")])
    splits, ids = (ordered[name].to_numpy() for name in ("split", "problem_id"))
    starts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1] or splits[i] != splits[i - 1]]
    spans = itertools.pairwise([*starts, len(ids)])
    return [_group(ordered.slice(start, end - start)) for start, end in spans]


def _group(rows: pa.Table) -> Group:
    rewarded = rows.filter(pc.is_valid(rows["reward"]))
    return Group(
        problem_id=rows["problem_id"][0].as_py(),
        split=rows["split"][0].as_py(),
        rollouts_G=rewarded["rollout"].to_numpy(),
        rewards_G=rewarded["reward"].to_numpy(),
        response_tokens_G=rewarded["tokens"].to_numpy(),
        failed=len(rows) - len(rewarded),
    )
