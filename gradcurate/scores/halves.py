"""Random halves of a group's rollouts."""

import numpy as np
from jaxtyping import Int

FEWEST_TO_HALVE = 4
"""A half needs two rollouts, or it has no advantage."""


def random_halves(size: int, splits: int, seed: int) -> tuple[Int[np.ndarray, "S h"], Int[np.ndarray, "S h"]]:
    """Return the places of two disjoint halves, for several splits; of an odd group, one rollout sits out."""
    generator = np.random.default_rng(seed)
    order = generator.permuted(np.tile(np.arange(size), (splits, 1)), axis=1)
    half = size // 2
    return order[:, :half], order[:, half : 2 * half]
