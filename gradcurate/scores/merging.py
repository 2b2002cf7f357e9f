"""Several validation sets, one score: a problem's scores along each set's direction are merged.

A set is the validation problems of one source, or those of another run. ``sum`` needs no merging: one
direction is the sum of all.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float

from gradcurate.scores.ranks import mean_ranks

MergeName = Literal["sum", "mean", "max", "rank-sum", "round-robin"]

Scores = Float[np.ndarray, "M P"]
Weights = Float[np.ndarray, " M"]


def mean(scores: Scores, weights: Weights) -> Float[np.ndarray, " P"]:
    """Return the weighted mean over the sets."""
    return weights @ scores / weights.sum()


def greatest(scores: Scores, weights: Weights) -> Float[np.ndarray, " P"]:
    """Return the greatest weighted score: what helps one set."""
    return (weights[:, None] * scores).max(0)


def rank_sum(scores: Scores, weights: Weights) -> Float[np.ndarray, " P"]:
    """Return the weighted sum of 1 / rank, as CROPI does (arXiv 2510.26491); ties share their mean rank."""
    ranks = np.stack([mean_ranks(-of) for of in scores])
    return mean(1 / ranks, weights) * weights.sum()


def round_robin(scores: Scores, weights: Weights) -> Float[np.ndarray, " P"]:
    """Return places in the order in which the sets, in turn, take the best that is left for them.

    A set's turns are as many as its weight says. The first place is 1, and the last 1 / P.
    """
    sets, count = scores.shape
    queues = [iter(np.argsort(-of, kind="stable")) for of in scores]
    merged, turns = np.full(count, np.nan), np.zeros(sets)
    for place in range(count):
        turn = int(np.argmin((turns + 1) / weights))
        taken = next(p for p in queues[turn] if np.isnan(merged[p]))
        merged[taken], turns[turn] = (count - place) / count, turns[turn] + 1
    return merged


MERGES: Mapping[MergeName, Callable[[Scores, Weights], Float[np.ndarray, " P"]]] = {
    "mean": mean,
    "max": greatest,
    "rank-sum": rank_sum,
    "round-robin": round_robin,
}


def merge(scores: Scores, weights: Weights, name: MergeName) -> Float[np.ndarray, " P"]:
    """Merge the scores along several directions; NaN where one of them is."""
    known = ~np.isnan(scores).any(0)
    merged = np.full(scores.shape[1], np.nan)
    if known.any():
        merged[known] = MERGES[name](scores[:, known], weights)
    return merged
