"""How far scores can be believed, as it is kept beside them, and the gate that stands before selection."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradcurate.errors import UnreliableError
from gradcurate.scores.reliability import Reliability
from gradcurate.scores.validation import DirectionCheck

LEAST_COSINE = 0.2
"""Of a direction's halves. Of shuffled rewards, which hold no direction, about one in twenty reaches it
(docs/reliability.md)."""


@dataclass(frozen=True)
class SetCheck:
    """How far one validation set's direction can be believed.

    Attributes:
        name: Which set.
        direction: Its halves.
        cosine_error: The error that sketches leave in cosines with it: 0 where derivatives are exact.
    """

    name: str
    direction: DirectionCheck
    cosine_error: float

    @property
    def believable(self) -> bool:
        """Say whether the direction is more than noise."""
        cosine = self.direction.cosine
        return cosine is not None and cosine >= LEAST_COSINE


@dataclass(frozen=True)
class Confidence:
    """How far a run's scores can be believed.

    Attributes:
        score: What they are.
        of_direction: Whether they depend on the validation direction.
        sets: The directions.
        ranking: The ranking's reliability; None where too few problems have four rollouts.
    """

    score: str
    of_direction: bool
    sets: tuple[SetCheck, ...]
    ranking: Reliability | None

    @property
    def doubtful(self) -> tuple[SetCheck, ...]:
        """Return the directions that the scores depend on and that are not believable."""
        return tuple(check for check in self.sets if self.of_direction and not check.believable)


def confidence_from(saved: Mapping[str, Any]) -> Confidence:
    """Return what `dataclasses.asdict` made of a `Confidence`."""
    sets = tuple(
        SetCheck(of["name"], DirectionCheck(**of["direction"]), of["cosine_error"]) for of in saved["sets"]
    )
    ranking = saved["ranking"] and Reliability(**saved["ranking"])
    return Confidence(saved["score"], saved["of_direction"], sets, ranking)


def require_believable(confidence: Confidence, way_out: str = "") -> None:
    """Refuse scores along a direction that is noise.

    Args:
        confidence: How far the scores can be believed.
        way_out: What else someone can do who goes on nevertheless.

    Raises:
        UnreliableError: Says how much more sampling the direction would need, where that can be told.
    """
    for check in confidence.doubtful:
        cosine = check.direction.cosine
        seen = "cannot be compared: too few problems or rollouts" if cosine is None else f"have {cosine:.2f}"
        raise UnreliableError(
            f"Halves of the validation direction must have a cosine of at least {LEAST_COSINE}",
            f"those of {check.name} ({check.direction.problems} problems with a signal, "
            f"{check.direction.rollouts:.0f} rollouts each) {seen}",
            f"{remedy(check.direction)} {way_out}".rstrip(),
        )


def warnings(confidence: Confidence) -> tuple[str, ...]:
    """Return what someone who trains on a selection should know of it."""
    return tuple(
        f"Selected although the validation direction ({check.name}) is mostly noise: the cosine of its "
        f"halves should be at least {LEAST_COSINE}, and is {_told(check.direction.cosine)}."
        for check in confidence.doubtful
    )


def _told(cosine: float | None) -> str:
    return "unknown" if cosine is None else f"{cosine:.2f}"


def remedy(direction: DirectionCheck) -> str:
    """Return what would make a direction believable."""
    wanted = [
        f"about {needed} {what}"
        for needed, what in (
            (_needed(direction.over_rollouts, direction.rollouts), "rollouts a validation problem"),
            (_needed(direction.over_problems, direction.problems), "validation problems with a signal"),
        )
        if needed is not None
    ]
    much = f"Use {' or '.join(wanted)}" if wanted else "Use more --rollouts or more validation problems"
    return f"{much}, and validation problems that the policy solves sometimes."


def _needed(cosine: float | None, now: int | float) -> int | None:
    """Return how many of ``now`` would give `LEAST_COSINE` (Spearman and Brown); None if unknown."""
    if cosine is None or not 0.02 < cosine < LEAST_COSINE:
        return None
    return math.ceil(now * LEAST_COSINE * (1 - cosine) / (cosine * (1 - LEAST_COSINE)))
