"""Rewards: what a completion is worth, by a verifier or by the user's own function.

Rewards run in worker processes, never here: they may hang, crash or print. A rollout whose
reward failed has no reward (``None``) and a reason; it is never scored 0.
"""

from gradcurate.rewards.loading import load_reward
from gradcurate.rewards.pool import RewardPool
from gradcurate.rewards.request import RewardOutcome, RewardRequest

__all__ = ["RewardOutcome", "RewardPool", "RewardRequest", "load_reward"]
