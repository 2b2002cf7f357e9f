"""Advantages: a group's rewards against the group's own baseline.

Presets are named after what the trainers that consume the data compute. With r a reward, and means, standard
deviations (ddof 1) and sums over the group:

- ``grpo``: (r - mean) / (std + 1e-6) (verl ``core_algos.compute_grpo_outcome_advantage``)
- ``dr_grpo``: r - mean (verl with ``norm_adv_by_std_in_grpo=False``; the paper's own setting)
- ``rloo``: r - mean of the others (verl ``compute_rloo_outcome_advantage``)
- ``opo``: r - mean weighted by length (verl ``compute_opo_outcome_advantage``)
- ``grpo_passk``: (best - second best) / (std + 1e-6) for the best, 0 for the others (verl
  ``compute_grpo_passk_outcome_advantage``)
- ``maxrl``: (r - mean) / mean (SkyRL and prime-rl); by the mean's absolute value, lest negative rewards
  turn it
- ``nemo_rl``: (r - mean of the others) / (std of the others + 1e-6), undivided where the others are equal

Rewards and lengths may be of many groups at once: the last axis is the group. One whose rewards are all equal
has advantages of 0; callers leave it out (`has_signal`).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

AdvantageName = Literal["grpo", "dr_grpo", "rloo", "opo", "grpo_passk", "maxrl", "nemo_rl"]
EPSILON = 1e-6
EQUAL_REWARDS_TOLERANCE = 1e-6
FEWEST_REWARDS = 2

Rewards = Float[np.ndarray, "*groups G"]
Lengths = Int[np.ndarray, "*groups G"]


def has_signal(rewards_G: Float[np.ndarray, " G"]) -> bool:
    """Say whether a group's rewards differ, beyond rounding."""
    return bool(have_signal(rewards_G))


def have_signal(rewards: Rewards) -> Bool[np.ndarray, "*groups"]:
    """Say of each group whether its rewards differ, beyond rounding."""
    if rewards.shape[-1] < FEWEST_REWARDS:
        return np.zeros(rewards.shape[:-1], dtype=bool)
    return np.asarray(np.ptp(rewards, axis=-1) > EQUAL_REWARDS_TOLERANCE)


def grpo(rewards: Rewards, lengths: Lengths) -> Rewards:
    """Return rewards standardised within the group."""
    return dr_grpo(rewards, lengths) / (_spread(rewards) + EPSILON)


def dr_grpo(rewards: Rewards, lengths: Lengths) -> Rewards:  # noqa: ARG001
    """Return rewards centred within the group."""
    return rewards - rewards.mean(-1, keepdims=True)


def rloo(rewards: Rewards, lengths: Lengths) -> Rewards:
    """Return each reward less the mean of the others."""
    size = rewards.shape[-1]
    return dr_grpo(rewards, lengths) * size / (size - 1)


def opo(rewards: Rewards, lengths: Lengths) -> Rewards:
    """Return rewards less their mean weighted by length."""
    total = lengths.sum(-1, keepdims=True)
    return rewards - (rewards * lengths).sum(-1, keepdims=True) / total


def grpo_passk(rewards: Rewards, lengths: Lengths) -> Rewards:  # noqa: ARG001
    """Return the lead of the best reward, standardised, for the first that has it."""
    second, best = np.moveaxis(np.sort(rewards, -1)[..., -2:], -1, 0)
    is_best = np.arange(rewards.shape[-1]) == rewards.argmax(-1)[..., None]
    return is_best * (best - second)[..., None] / (_spread(rewards) + EPSILON)


def maxrl(rewards: Rewards, lengths: Lengths) -> Rewards:
    """Return centred rewards relative to the size of their mean."""
    return dr_grpo(rewards, lengths) / (np.abs(rewards.mean(-1, keepdims=True)) + EPSILON)


def nemo_rl(rewards: Rewards, lengths: Lengths) -> Rewards:
    """Return each reward standardised by the others'."""
    others = rewards.shape[-1] - 1
    lead = rloo(rewards, lengths)
    if others < FEWEST_REWARDS:
        return lead
    centred = dr_grpo(rewards, lengths)
    squares = (centred**2).sum(-1, keepdims=True) - centred**2 * (others + 1) / others
    spread = np.sqrt(np.maximum(squares, 0) / (others - 1))
    return lead / np.where(spread > EQUAL_REWARDS_TOLERANCE, spread + EPSILON, 1.0)


ADVANTAGES: dict[AdvantageName, Callable[[Rewards, Lengths], Rewards]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "opo": opo,
    "grpo_passk": grpo_passk,
    "maxrl": maxrl,
    "nemo_rl": nemo_rl,
}


def _spread(rewards: Rewards) -> Float[np.ndarray, "*groups 1"]:
    return rewards.std(-1, ddof=1, keepdims=True)
