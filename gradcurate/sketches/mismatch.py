"""Whether the gradient engine sees the policy that sampled.

The log-probabilities that the gradient pass recomputes are held against the sampler's. A double
BOS, another chat template, another dtype or temperature shows here, and nowhere else before the
training fails. Per row: the mean over its tokens of ``exp(d) - 1 - d`` with ``d`` the recomputed
minus the sampled log-probability, an unbiased estimate of the divergence KL(sampler || gradient
engine) that is never negative (Schulman, "Approximating KL divergence", k3), and the largest
absolute ``d``.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gradcurate.errors import NumericalError
from gradcurate.sketches.live_rollouts import LiveRow

Mismatch = tuple[float, float]
"""Divergence in nats a token, and the largest difference."""


def row_mismatches(rows: Sequence[LiveRow], recomputed: Float[np.ndarray, " N"]) -> list[Mismatch | None]:
    """Return each row's mismatch; None where the sampler's log-probabilities are not known."""
    ends = np.cumsum([row.response_tokens for row in rows])
    parts = np.split(recomputed.astype(np.float64), ends[:-1])
    return [
        None if row.sampling_logprobs is None else _mismatch(part - np.asarray(row.sampling_logprobs))
        for row, part in zip(rows, parts, strict=True)
    ]


def _mismatch(difference: Float[np.ndarray, " T"]) -> Mismatch:
    with np.errstate(over="ignore"):
        divergence = np.expm1(difference) - difference
    return float(divergence.mean()), float(np.abs(difference).max())


def require_agreement(rows: Sequence[LiveRow], mismatches: Sequence[Mismatch | None], limit: float) -> None:
    """Refuse a batch whose rows were sampled from another policy than the one at hand.

    Raises:
        NumericalError: Its mean divergence is above the limit.
    """
    known = [(row, found) for row, found in zip(rows, mismatches, strict=True) if found is not None]
    tokens = sum(row.response_tokens for row, _ in known)
    if not known:
        return
    divergence = sum(row.response_tokens * found[0] for row, found in known) / tokens
    if not divergence <= limit:
        worst, found = max(known, key=lambda pair: pair[1][1])
        raise NumericalError(
            f"Sampled and recomputed log-probabilities must agree (KL of at most {limit:g} nats a token)",
            f"over {tokens} tokens it is {divergence:.3g}, and one of problem {worst.problem_id} is off by "
            f"{found[1]:.3g}",
            "Likely causes: other weights or another --dtype, a prompt with a second BOS, another chat "
            "template, another temperature. --mismatch-limit allows more.",
        )
