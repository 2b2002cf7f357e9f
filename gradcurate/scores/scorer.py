"""From evidence to scores: an expression over signals along each direction, and the merging of directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradcurate.scores.evidence import Evidence
from gradcurate.scores.expression import Expression
from gradcurate.scores.merging import MergeName, merge
from gradcurate.scores.signals import SIGNALS


@dataclass(frozen=True)
class Scorer:
    """How problems are scored.

    Attributes:
        expression: The score along one direction.
        merging: How those along several become one.
        weights: The weight of each direction.
    """

    expression: Expression
    merging: MergeName = "sum"
    weights: tuple[float, ...] = (1.0,)

    def __call__(self, evidence: Sequence[Sequence[Evidence]]) -> Float[np.ndarray, "*parts P"]:
        """Return the score of each problem, NaN where it has none.

        Args:
            evidence: The problems' evidence along each direction, all of the same parts.
        """
        along = [self._score(problems) for problems in evidence]
        if len(along) == 1:
            return along[0]
        parts = np.stack(along)
        weights = np.array(self.weights)
        if parts.ndim == 2:
            return merge(parts, weights, self.merging)
        return np.stack([merge(parts[:, part], weights, self.merging) for part in range(parts.shape[1])])

    def _score(self, problems: Sequence[Evidence]) -> Float[np.ndarray, "*parts P"]:
        if not problems:
            return np.zeros(0)
        values = {
            name: np.stack([_value(name, evidence) for evidence in problems], axis=-1)
            for name in self.expression.names
        }
        if next(iter(values.values())).ndim == 1:
            return self.expression(values)
        parts = range(len(next(iter(values.values()))))
        return np.stack([self.expression({name: of[part] for name, of in values.items()}) for part in parts])


def _value(name: str, evidence: Evidence) -> Float[np.ndarray, "*parts"]:
    """Return a signal; of a group without one only ``gold`` is asked, which needs no rewards that differ."""
    if name != "gold" and not evidence.live.any():
        return np.full(evidence.live.shape, np.nan)
    return np.asarray(SIGNALS[name].of(evidence))
