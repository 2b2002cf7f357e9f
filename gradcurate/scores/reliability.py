"""The reliability of a ranking: would the same rollouts, sampled again, rank the problems alike?

Every group is cut in halves at random, each with a baseline of its own; both halves are scored, and the
ranks are correlated over the problems: scores have outliers, those of few rollouts above all. The correlation
of the halves is the reliability of half of the rollouts; that of all of them follows by Spearman and Brown's
formula. The square root of the reliability is the share of the gain that selection by a score without noise
would have, so far as scores are normal (the breeder's equation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradcurate.scores.advantages import FEWEST_REWARDS
from gradcurate.scores.evidence import Evidence
from gradcurate.scores.halves import FEWEST_TO_HALVE, random_halves
from gradcurate.scores.ranks import spearman
from gradcurate.scores.scorer import Scorer

NUMBERS_AT_ONCE = 2**25
MOST_PROBLEMS = 10_000
FEWEST_SPLITS, MOST_SPLITS = 4, 100
FEWEST_PROBLEMS = 4
NORMAL_QUANTILE = 1.645  # of a 90 % interval
WORTHWHILE = 0.5


@dataclass(frozen=True)
class Reliability:
    """How far a ranking repeats.

    Attributes:
        problems: How many problems had a score in both halves, on average over the splits.
        rollouts: How many rollouts they have, on average.
        halves: The correlation of half of the rollouts with the other half.
        reliability: That of all of them with as many others.
        low: The lower end of its 90 % interval.
        high: The upper end.
        share_of_best_gain: The square root of ``reliability``; 0 where that is negative.
        rollouts_for_half: How many rollouts a problem needs for a reliability of 0.5; None where the interval
            includes 0, for then nothing can be extrapolated.
    """

    problems: float
    rollouts: float
    halves: float
    reliability: float
    low: float
    high: float
    share_of_best_gain: float
    rollouts_for_half: int | None


def measure_reliability(evidence: Sequence[Sequence[Evidence]], score: Scorer) -> Reliability | None:
    """Correlate the scores of halves.

    Args:
        evidence: The pool's problems, along each direction.
        score: What is computed of each half.

    Returns:
        None where too few problems have a score in both halves.
    """
    halved = [[e for e in problems if _can_be_halved(e)] for problems in evidence]
    if len(halved[0]) < FEWEST_PROBLEMS:
        return None
    step = math.ceil(len(halved[0]) / MOST_PROBLEMS)
    halved = [problems[::step] for problems in halved]
    size = max(e.rewards.shape[-1] for e in halved[0])
    splits = min(MOST_SPLITS, max(FEWEST_SPLITS, NUMBERS_AT_ONCE // (len(halved[0]) * size**2)))
    first, second = (score(side) for side in _halves(halved, splits))
    found = [_correlation(a, b) for a, b in zip(first, second, strict=True)]
    known = [(r, both) for r, both in found if r is not None]
    if not known:
        return None
    correlations, counts = zip(*known, strict=True)
    rollouts = float(np.mean([e.rewards.shape[-1] for e in halved[0]]))
    return _summarise(float(np.mean(correlations)), float(np.mean(counts)), rollouts)


def _can_be_halved(evidence: Evidence) -> bool:
    return not evidence.summed and evidence.rewards.shape[-1] >= FEWEST_TO_HALVE and bool(evidence.live)


def _halves(evidence: Sequence[Sequence[Evidence]], splits: int) -> list[list[list[Evidence]]]:
    """Return both sides of every problem, along each direction, cut alike for all directions."""
    places = [random_halves(e.rewards.shape[-1], splits, seed) for seed, e in enumerate(evidence[0])]
    return [
        [[e.part(halves[side]) for e, halves in zip(problems, places, strict=True)] for problems in evidence]
        for side in (0, 1)
    ]


def spearman_brown(halves: float, times: float = 2.0) -> float:
    """Return the reliability of ``times`` as much of what has this one, at least -1."""
    grown = 1 + (times - 1) * halves
    return max(-1.0, times * halves / grown) if grown > 0 else -1.0


def _correlation(first: Float[np.ndarray, " P"], second: Float[np.ndarray, " P"]) -> tuple[float | None, int]:
    """Return the correlation of ranks over the problems that both halves score, and how many those are."""
    both = ~np.isnan(first) & ~np.isnan(second)
    if both.sum() < FEWEST_PROBLEMS:
        return None, 0
    return spearman(first[both], second[both]), int(both.sum())


def _summarise(halves: float, problems: float, rollouts: float) -> Reliability:
    spread = NORMAL_QUANTILE / math.sqrt(problems - 3) if problems > 3 else math.inf  # Fisher's z
    middle = math.atanh(max(-0.999999, min(0.999999, halves)))
    low, high = (math.tanh(middle + sign * spread) for sign in (-1, 1))
    half = rollouts // 2
    times = gain_over_half(rollouts)
    whole = spearman_brown(halves, times)
    needed = (half - 1) * (1 - halves) / halves * WORTHWHILE / (1 - WORTHWHILE) + 1 if low > 0 else None
    return Reliability(
        problems=problems,
        rollouts=rollouts,
        halves=halves,
        reliability=whole,
        low=min(whole, spearman_brown(low, times)),
        high=max(whole, spearman_brown(high, times)),
        share_of_best_gain=math.sqrt(max(0.0, whole)),
        rollouts_for_half=None if needed is None else max(FEWEST_REWARDS, math.ceil(needed)),
    )


def gain_over_half(rollouts: float) -> float:
    """Return how much more rollouts tell than half of them: each group spends one on its baseline."""
    return (rollouts - 1) / max(1.0, rollouts // 2 - 1)
