"""The derivative of each row along a known direction, without a backward pass.

    <g, v> = (L(theta + h v) - L(theta - h v)) / 2h

with L the row's log-probability, each token weighed as in its gradient. It takes two forward passes
and no activations, and leaves neither a norm nor a sketch. Differences are taken token by token in
float64 before they are added up: the sums are far longer than what they differ by.
"""

from dataclasses import dataclass

import torch

from gradcurate.sketches.choices import RecordingChoices, RepeatingChoices
from gradcurate.sketches.halving import run_in_parts
from gradcurate.sketches.output_layer import token_logprobs
from gradcurate.sketches.score_function import token_counts
from gradcurate.sketches.sketcher import BatchGradients, Sketcher, joined
from gradcurate.sketches.token_batch import TokenBatch
from gradcurate.sketches.twins import Twins

SMALLER = "Use --scorer sketch with --gradient-checkpointing, or a device with more memory."


@dataclass(frozen=True)
class Differences:
    """A policy's twins at their distance.

    Attributes:
        sketcher: Whose gradients they stand in for.
        twins: The policy ahead and behind.
        step: How far each has moved, as a multiple of the direction.
    """

    sketcher: Sketcher
    twins: Twins
    step: float


def difference_batch(differences: Differences, batch: TokenBatch) -> BatchGradients:
    """Return every row's derivative; the batch's attention mask must be in the twins' arithmetic.

    Raises:
        OutOfMemoryError: A single row does not fit.
    """

    def attempt(part: TokenBatch, _rows: slice, _done: set[str]) -> BatchGradients:
        return _pass(differences, part)

    return joined(run_in_parts(batch, differences.sketcher.budget, attempt, SMALLER))


def _pass(differences: Differences, batch: TokenBatch) -> BatchGradients:
    sketcher, twins, rows = differences.sketcher, differences.twins, len(batch.lengths)
    with RecordingChoices() as first:
        ahead = token_logprobs(twins.ahead, batch, sketcher.temperature, sketcher.chunked_head)
    with RepeatingChoices(first.chosen):
        behind = token_logprobs(twins.behind, batch, sketcher.temperature, sketcher.chunked_head)
    logprobs = (ahead + behind) / 2  # those of the policy, up to the square of the step
    slopes = (ahead.double() - behind.double()) / (2 * differences.step)
    counts = token_counts(logprobs, batch.token_weights, batch.sampled_logprobs, sketcher.importance_cap)
    sums = torch.zeros(2, rows, dtype=torch.float64, device=slopes.device)
    sums[0].index_add_(0, batch.rows, logprobs.double())
    sums[1].index_add_(0, batch.rows, slopes if counts is None else slopes * counts)
    return BatchGradients(logprobs, sums[0].to(logprobs.dtype), None, sums[1])
