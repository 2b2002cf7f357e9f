"""The validation direction from stored rows, and whether it is more than noise.

Half of the validation rollouts gives a direction, and so does the other half, each with baselines of its
own; so do half of the problems and the other half. The cosine between two such halves says how much of the
direction a repetition would find again. Sharing a baseline would tie the halves together and make them look
better or worse than they are (docs/reliability.md has the figures).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from gradcurate.errors import NoSignalError, RunDirectoryError
from gradcurate.scores.evidence import STORAGE_ERROR, Along, Evidence
from gradcurate.scores.halves import FEWEST_TO_HALVE, random_halves

AggregationName = Literal["sum", "unit-mean"]
FEWEST_PROBLEMS = 3
"""With fewer, nothing is left to leave out."""
SPLITS = 100


@dataclass(frozen=True)
class ValidationProblem:
    """One validation problem with a signal.

    Attributes:
        source: What it is of.
        rollouts: The numbers of its rows; None is that of a sum.
        evidence: Its rollouts; their derivatives are not known.
        sketches: Theirs, in the same order.
        reference_weight: Of its only row, where that is of the reference answer.
    """

    source: str
    rollouts: tuple[int | None, ...]
    evidence: Evidence
    sketches: Float[np.ndarray, "R K"]
    reference_weight: float | None = None

    @property
    def weights(self) -> Float[np.ndarray, " R"]:
        """Return what each row counts in its gradient."""
        return self.evidence.weights if self.reference_weight is None else np.array([self.reference_weight])

    @property
    def gradient(self) -> Float[np.ndarray, " K"]:
        """Return the sketch of its gradient."""
        return self.weights @ self.sketches


@dataclass(frozen=True)
class ValidationSet:
    """Validation problems that make one direction.

    Attributes:
        name: What they are called.
        problems: The problems.
        own: Whether they are the run's own.
    """

    name: str
    problems: tuple[ValidationProblem, ...]
    own: bool = True

    @property
    def row_weights(self) -> dict[str, dict[int | None, float]]:
        """Return what each row counts in the sum; one that counts nothing is left out."""
        return {
            p.evidence.problem_id: {r: w for r, w in zip(p.rollouts, p.weights.tolist(), strict=True) if w}
            for p in self.problems
        }

    def by_source(self) -> tuple["ValidationSet", ...]:
        """Return a set for each source."""
        sources = sorted({problem.source for problem in self.problems})
        if not sources:
            return (self,)
        return tuple(
            ValidationSet(source, tuple(p for p in self.problems if p.source == source), self.own)
            for source in sources
        )


@dataclass(frozen=True)
class StoredDirection:
    """The direction that exact derivatives were taken along.

    Attributes:
        row_weights: What it is a sum of.
        sketch: Its sketch.
        norm: Its exact length.
    """

    row_weights: Mapping[str, Mapping[int | None, float]]
    sketch: Float[np.ndarray, " K"]
    norm: float


@dataclass(frozen=True)
class Target:
    """A direction to score along.

    A derivative along it is ``share * <g, stored> + <s, rest>``: exact as far as the direction for which
    exact derivatives are stored goes, and from sketches for what differs from it.

    Attributes:
        name: What it is the direction of.
        sketch: Its sketch.
        share: How much of the stored direction it holds.
        rest: The sketch of the remainder; None where nothing remains.
        along: Its length, and the error of the remainder.
    """

    name: str
    sketch: Float[np.ndarray, " K"]
    share: float
    rest: Float[np.ndarray, " K"] | None
    along: Along

    def derivatives(
        self, exact: Float[np.ndarray, " R"], sketches: Float[np.ndarray, "R K"] | None
    ) -> Float[np.ndarray, " R"]:
        """Return the derivatives of rows along the target."""
        if self.rest is None:
            return exact
        if sketches is None:
            return np.full(len(exact), np.nan)
        return np.nan_to_num(self.share * exact) + sketches @ self.rest


def aim(chosen: ValidationSet, stored: StoredDirection, aggregation: AggregationName) -> Target:
    """Return the direction of a validation set, as near to the stored one as it is.

    Raises:
        NoSignalError: The gradients cancel, and what is left of them is rounding.
        RunDirectoryError: The set is empty.
    """
    sketch = _sum_gradients(chosen, aggregation)
    length = float(np.linalg.norm(sketch))
    if aggregation == "sum" and chosen.own and chosen.row_weights == stored.row_weights:
        return Target(chosen.name, sketch, 1.0, None, Along(stored.norm, length))
    share = float(sketch @ stored.sketch / (stored.sketch @ stored.sketch))
    rest = sketch - share * stored.sketch
    error = float(np.linalg.norm(rest)) / math.sqrt(len(rest))
    return Target(chosen.name, sketch, share, rest, Along(length, length, error))


def _sum_gradients(chosen: ValidationSet, aggregation: AggregationName) -> Float[np.ndarray, " K"]:
    if not chosen.problems:
        raise RunDirectoryError(
            "At least one validation problem with a learning signal must have its sketches",
            "none has",
            "Score into another --run.",
        )
    total: np.ndarray = problem_gradients(chosen.problems, aggregation).sum(0)
    terms = sum(float(np.abs(p.weights) @ np.linalg.norm(p.sketches, axis=1)) for p in chosen.problems)
    if aggregation == "sum" and float(np.linalg.norm(total)) <= STORAGE_ERROR * terms:
        raise NoSignalError(
            "The gradients of the validation rollouts must add up to a direction",
            "they cancel: equal completions have different rewards",
            "Use a reward that judges equal completions equally, more --rollouts, and a new --run.",
        )
    return total


def problem_gradients(
    problems: Sequence[ValidationProblem], aggregation: AggregationName
) -> Float[np.ndarray, "P K"]:
    """Return what each problem adds to the direction."""
    gradients = np.stack([problem.gradient for problem in problems]).astype(np.float64)
    return gradients if aggregation == "sum" else _unit(gradients)


@dataclass(frozen=True)
class DirectionCheck:
    """How much of a validation direction is no noise.

    Attributes:
        problems: How many problems it is the sum of. rollouts: How many rollouts each has, on average over
        those that reference answers do not stand for. over_rollouts: The cosine between halves of the
        rollouts of every problem; None with fewer than four, or
            where reference answers, which are alike in both halves, make a part of it.
        over_problems: The cosine between halves of the problems; None with fewer than three.
        over_problems_error: Its standard error, by leaving out one problem at a time.
    """

    problems: int
    rollouts: float
    over_rollouts: float | None
    over_problems: float | None
    over_problems_error: float | None

    @property
    def cosine(self) -> float | None:
        """Return the cosine of halves that the noise of sampling leaves, as far as it is known."""
        return self.over_problems if self.over_rollouts is None else self.over_rollouts


def check_direction(problems: Sequence[ValidationProblem], aggregation: AggregationName) -> DirectionCheck:
    """Measure a direction by its halves."""
    over_problems, error = _over_problems(problem_gradients(problems, aggregation))
    sampled = [p.evidence.rewards.shape[-1] for p in problems if p.reference_weight is None]
    return DirectionCheck(
        problems=len(problems),
        rollouts=float(np.mean(sampled)) if sampled else 0.0,
        over_rollouts=_over_rollouts(problems, aggregation),
        over_problems=over_problems,
        over_problems_error=error,
    )


def _over_rollouts(problems: Sequence[ValidationProblem], aggregation: AggregationName) -> float | None:
    halved = [
        p for p in problems if not p.evidence.summed and p.evidence.rewards.shape[-1] >= FEWEST_TO_HALVE
    ]
    if not halved or any(p.reference_weight is not None for p in problems):
        return None
    sides = np.zeros((2, SPLITS, halved[0].sketches.shape[1]))
    for seed, problem in enumerate(halved):
        halves = random_halves(problem.evidence.rewards.shape[-1], SPLITS, seed)
        for side, places in zip(sides, halves, strict=True):
            gradients = _gradients_of_parts(problem, places)
            side += gradients if aggregation == "sum" else _unit(gradients)
    product, squares = (sides[0] * sides[1]).sum(), (sides**2).sum() / 2
    return float(product / squares) if squares else None


def _gradients_of_parts(
    problem: ValidationProblem, places: Int[np.ndarray, "S h"]
) -> Float[np.ndarray, "S K"]:
    weights = np.zeros((len(places), len(problem.sketches)))
    of_parts = np.nan_to_num(problem.evidence.part(places).weights)  # a half without a signal adds nothing
    np.put_along_axis(weights, places, of_parts, axis=1)
    return weights @ problem.sketches


def _over_problems(gradients: Float[np.ndarray, "P K"]) -> tuple[float | None, float | None]:
    """Return the expected cosine between halves of the problems, and its jackknife error.

    A ratio of two unbiased estimates: of the inner product of two problems' gradients, and of the squared
    length of half of them, added up.
    """
    gram = gradients @ gradients.T
    count = len(gram)
    if count < FEWEST_PROBLEMS:
        return None, None
    own, rows, total = np.diagonal(gram), gram.sum(1), gram.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = _half_cosine(own.sum(), total - own.sum(), count)
        without = _half_cosine(own.sum() - own, total - 2 * rows + own - (own.sum() - own), count - 1)
        error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    return (float(whole), float(error)) if np.isfinite(error) else (None, None)


def _half_cosine(own: Any, mutual: Any, count: int) -> Any:
    """Return the cosine of halves, from the sums of the gram matrix's diagonal and of all the rest of it."""
    single, pair = own / count, mutual / (count * (count - 1))
    half = count / 2
    return half * pair / np.maximum(single + (half - 1) * pair, 1e-12 * single)


def _unit(gradients: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.divide(gradients, lengths, out=np.zeros_like(gradients), where=lengths > 0)
