"""Ranks, and the correlation of ranks."""

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " N"]


def mean_ranks(values: Values) -> Values:
    """Return each value's place from 1 for the least; equal ones share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def spearman(left: Values, right: Values) -> float | None:
    """Return the rank correlation, ties sharing their mean rank; None where either side is constant."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(mean_ranks(left), mean_ranks(right))[0, 1])
