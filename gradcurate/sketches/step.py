"""The step of a central difference: found on a few rows, and kept.

Too long a step shows third derivatives; too short a one leaves nothing but rounding. From a first
guess it is changed by factors of four, to the side where two estimates in a row come closer to each
other, for as long as they do. What it was is written down, so that a run that goes on from there
takes the same one.
"""

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.errors import NumericalError, RunDirectoryError, first_line
from gradcurate.sketches.direction import Direction, norm
from gradcurate.sketches.forward import Differences
from gradcurate.sketches.live_rollouts import LiveRow
from gradcurate.sketches.live_sketches import difference_rows
from gradcurate.sketches.sketcher import Sketcher
from gradcurate.sketches.twins import build_twins, move_twins
from gradcurate.store.atomic import write_json

FIRST_STEP = 1e-5
"""As a share of the weights' own length (dev/LOG.md)."""

RATIO = 4.0
LARGEST_DISAGREEMENT = 0.1


@dataclass(frozen=True)
class Step:
    """A step, and how well it is known.

    Attributes:
        relative_step: Its length as a share of that of the weights.
        disagreement: How far the derivatives are from those of a step four times shorter, relative to them.
    """

    relative_step: float
    disagreement: float


def settle_differences(
    sketcher: Sketcher, direction: Direction, rows: Sequence[LiveRow], record: Path
) -> Differences:
    """Return a policy's twins at the recorded distance, or at one that is found on some rows and recorded.

    Raises:
        NumericalError: No step gives derivatives.
        OutOfMemoryError: The twins do not fit.
        RunDirectoryError: The record is damaged.
    """
    model, space = sketcher.model, sketcher.space
    twins, unit = build_twins(model, space), (_length(sketcher) or 1.0) / (norm(direction) or 1.0)

    def at(relative_step: float) -> Differences:
        move_twins(twins, model, space, direction, relative_step * unit)
        return Differences(sketcher, twins, relative_step * unit)

    if not record.exists():
        found = find_step(lambda relative_step: _derivatives(at(relative_step), rows))
        write_json(record, asdict(found))
    return at(_read(record).relative_step)


def find_step(estimate: Callable[[float], Float[Tensor, " B"]], first: float = FIRST_STEP) -> Step:
    """Return the step whose derivatives are closest to those of a step four times shorter.

    Args:
        estimate: Returns derivatives for a relative step.
        first: Where the search begins.

    Raises:
        NumericalError: Even those disagree.
    """
    estimates = functools.cache(estimate)

    def distance(step: float) -> float:
        return float((estimates(step) - estimates(step / RATIO)).norm())

    step = first
    factor = 1 / RATIO if distance(step / RATIO) < distance(step) else RATIO
    while distance(step * factor) < distance(step):
        step *= factor
    disagreement = distance(step) / (float(estimates(step).norm()) or math.nan)
    if not disagreement <= LARGEST_DISAGREEMENT:
        raise NumericalError(
            f"Derivatives of two steps must agree to {LARGEST_DISAGREEMENT:.0%} for --scorer forward",
            f"at best they differ by {disagreement:.0%}, with a step of {step:.1g} of the weights' length",
            "Use --scorer sketch.",
        )
    return Step(step, disagreement)


def _derivatives(differences: Differences, rows: Sequence[LiveRow]) -> Float[Tensor, " B"]:
    found = difference_rows(differences, rows).directional
    assert found is not None  # a difference leaves nothing else
    return found


def _length(sketcher: Sketcher) -> float:
    """Return the Euclidean length of the gradient space's weights."""
    weights = (sketcher.model.get_parameter(member.parameter) for member in sketcher.space.members)
    return math.hypot(*(torch.linalg.vector_norm(w, dtype=torch.float64).item() for w in weights))


def _read(record: Path) -> Step:
    try:
        return Step(**json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"{record} must hold the step of --scorer forward",
            f"it does not: {first_line(error)}",
            "Remove it, and run the same command again: the same step is found.",
        ) from error
