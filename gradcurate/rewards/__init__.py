"""Rewards: what a completion is worth, by a verifier or by the user's own function.

Rewards run in worker processes, never here: they may hang, crash or print. A rollout whose
reward failed has no reward (``None``) and a reason; it is never scored 0.
"""

from gradcurate.rewards.loading import load_rewards
from gradcurate.rewards.pool import RewardPool
from gradcurate.rewards.request import RewardOutcome, RewardRequest
from gradcurate.rewards.spec import RewardSpec

__all__ = ["RewardOutcome", "RewardPool", "RewardRequest", "RewardSpec", "load_rewards"]
