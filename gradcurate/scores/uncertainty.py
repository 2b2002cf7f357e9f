"""How sure a problem's derivative is, from its own rollouts.

The derivative is ``sum_i A[i] x[i]``, with x the rollouts' weighted derivatives along the direction. The
rewards are taken as they came, and x as a linear function of the reward plus noise: residuals e tell how
large the noise is, in part each rollout its own, ``e[i]^2 + h[i] s^2``. The leverage h fills up what the
fit takes away from a residual, with the pooled variance s^2; the only success of a group, whose own
residual is 0 by construction, has h = 1. The degrees of freedom are those of Bell and McCaffrey (2002), so
that intervals are Student's.

Why no bootstrap over rollouts: with 8 to 16 of them its 90 % intervals cover 79 to 88 %, because most
resamples of a group with few successes have none or the same one twice; these cover 88 to 93 %
(docs/reliability.md).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from gradcurate.scores.evidence import Evidence, Value

LEVEL = 0.9
"""What intervals are meant to cover."""
FITTED = 2  # a mean and a slope
ROUNDING = 1e-4
"""Below this share of its terms an error is rounding: the group's completions are but a few, repeated."""


@dataclass(frozen=True)
class Uncertainty:
    """The error of a derivative.

    Attributes:
        standard_error: Of the derivative; NaN with fewer than three rollouts, or only their sum, or where
            equal completions leave nothing to tell it by.
        half_width: Half of its 90 % interval.
        p_against: How probable a derivative so low would be if it were 0 in truth.
    """

    standard_error: Value
    half_width: Value
    p_against: Value


def uncertainty(evidence: Evidence) -> Uncertainty:
    """Return the standard error of a problem's derivative, and half of its 90 % interval."""
    size = evidence.rewards.shape[-1]
    if evidence.summed or size <= FITTED:
        unknown = np.full(evidence.live.shape, np.nan)
        return Uncertainty(unknown, unknown, unknown)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares, degrees = _sampling_variance(evidence)
        sketching = np.nan_to_num(evidence.norm) * evidence.along.error
        error = np.sqrt(squares + sketching**2)
        terms = np.abs(evidence.weights * evidence.derivatives).sum(-1)
        error = np.where(error > ROUNDING * terms, error, np.nan)
        p_against = stdtr(degrees, evidence.dot / error)
    return Uncertainty(error, stdtrit(degrees, (1 + LEVEL) / 2) * error, p_against)


def noise_share(evidence: Evidence) -> Value:
    """Return the share of the gradient's squared length that is noise of sampling, given the rewards.

    As for the derivative, with the squared lengths of residual gradients in place of squared residuals; NaN
    with fewer than three rollouts, without sketches, or with only their sum.
    """
    size = evidence.rewards.shape[-1]
    if evidence.gram is None or evidence.summed or size <= FITTED:
        return np.full(evidence.live.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        projection, leverage = _fit(evidence)
        weights = evidence.token_weights
        gram = evidence.gram * weights[..., :, None] * weights[..., None, :]
        squares = np.einsum("...ij,...jk,...ik->...i", projection, gram, projection)
        return _variance(evidence, squares, leverage) / evidence.norm**2


def _sampling_variance(evidence: Evidence) -> tuple[Value, Value]:
    """Return the variance of the derivative, and its degrees of freedom."""
    projection, leverage = _fit(evidence)
    values = evidence.derivatives * evidence.token_weights
    residuals = np.einsum("...ij,...j->...i", projection, values)
    squared_weights = evidence.advantages**2
    spare = evidence.rewards.shape[-1] - FITTED
    scales = squared_weights + (squared_weights * leverage).sum(-1, keepdims=True) / spare
    return _variance(evidence, residuals**2, leverage), _degrees(scales, projection)


def _fit(
    evidence: Evidence,
) -> tuple[Float[np.ndarray, "*parts G G"], Float[np.ndarray, "*parts G"]]:
    """Return the projection onto what a linear function of the reward leaves, and each rollout's leverage."""
    size = evidence.rewards.shape[-1]
    centred = evidence.rewards - evidence.rewards.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).sum(-1, keepdims=True))
    projection = np.eye(size) - 1 / size - unit[..., :, None] * unit[..., None, :]
    return projection, 1 / size + unit**2


def _variance(
    evidence: Evidence, squares: Float[np.ndarray, "*parts G"], leverage: Float[np.ndarray, "*parts G"]
) -> Value:
    pooled = squares.sum(-1, keepdims=True) / (squares.shape[-1] - FITTED)
    return (evidence.advantages**2 * (squares + leverage * pooled)).sum(-1)


def _degrees(scales: Float[np.ndarray, "*parts G"], projection: Float[np.ndarray, "*parts G G"]) -> Value:
    """Return ``tr(QD)^2 / tr(QDQD)``, Q the projection onto residuals, D the scales of their squares."""
    trace = (np.diagonal(projection, axis1=-2, axis2=-1) * scales).sum(-1)
    squares = np.einsum("...i,...ij,...j->...", scales, projection**2, scales)
    return trace**2 / squares
