"""Several rewards of one completion, added up as trainers do.

TRL and verifiers add weighted rewards; in TRL one that returns None does not apply to the problem
and is left out. Each component is kept in ``detail`` under its name, with its own detail. A
component that fails fails the rollout: a sum without it would be another reward.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gradcurate.rewards.request import RewardOutcome, RewardRequest, failed
from gradcurate.rewards.styles import DOES_NOT_APPLY
from gradcurate.rewards.verdict import outcome_of


def weighted_sum(
    functions: Sequence[tuple[str, Callable[[RewardRequest], Any]]], weights: Sequence[float]
) -> Callable[[RewardRequest], RewardOutcome]:
    """Return the reward that is the weighted sum of those that apply.

    Args:
        functions: Each with its name.
        weights: One for each.
    """
    names = _component_names([name for name, _ in functions])

    def reward(request: RewardRequest) -> RewardOutcome:
        total, applied = 0.0, False
        detail: dict[str, Any] = {}
        for name, (_, function), weight in zip(names, functions, weights, strict=True):
            returned = function(request)
            if returned is DOES_NOT_APPLY:
                detail[name] = None
                continue
            outcome = outcome_of(returned)
            if outcome.reward is None:
                return failed(f"{name}: {outcome.detail['error']}", detail)
            total, applied = total + weight * outcome.reward, True
            detail[name] = {**outcome.detail, "reward": outcome.reward} if outcome.detail else outcome.reward
        return (
            RewardOutcome(total, detail) if applied else failed("no reward applies to this problem", detail)
        )

    return reward


def _component_names(names: Sequence[str]) -> list[str]:
    """Return the function's own name of each reward where that is unique, else the whole."""
    short = [name.rpartition(":")[2] for name in names]
    return [own if short.count(own) == 1 else name for own, name in zip(short, names, strict=True)]
