"""Advantages: a group's rewards against the group's own baseline.

Presets are named after what the trainers that consume the data compute:

- ``grpo``: (r - mean) / (std + 1e-6), std with ddof 1 (verl ``core_algos.compute_grpo_outcome_advantage``)
- ``dr_grpo``: r - mean (verl with ``norm_adv_by_std_in_grpo=False``; the paper's own setting)
- ``rloo``: r - mean of the others (verl ``compute_rloo_outcome_advantage``)

A group whose rewards are all equal has no advantages; callers leave it out (`has_signal`).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

AdvantageName = Literal["grpo", "dr_grpo", "rloo"]
GRPO_EPSILON = 1e-6
EQUAL_REWARDS_TOLERANCE = 1e-6
FEWEST_REWARDS = 2

Rewards = Float[np.ndarray, " G"]


def has_signal(rewards_G: Rewards) -> bool:
    """Say whether a group's rewards differ, beyond rounding."""
    return len(rewards_G) >= FEWEST_REWARDS and float(np.ptp(rewards_G)) > EQUAL_REWARDS_TOLERANCE


def grpo(rewards_G: Rewards) -> Rewards:
    """Return rewards standardised within the group."""
    return dr_grpo(rewards_G) / (float(rewards_G.std(ddof=1)) + GRPO_EPSILON)


def dr_grpo(rewards_G: Rewards) -> Rewards:
    """Return rewards centred within the group."""
    return rewards_G - float(rewards_G.mean())


def rloo(rewards_G: Rewards) -> Rewards:
    """Return each reward less the mean of the others."""
    return dr_grpo(rewards_G) * len(rewards_G) / (len(rewards_G) - 1)


ADVANTAGES: dict[AdvantageName, Callable[[Rewards], Rewards]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
}
