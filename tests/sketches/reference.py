"""What the sketching path is held against: random rollouts, and S written out from its definition."""

import numpy as np
import torch

from gradcurate.sketches.live_rollouts import LiveRollout
from gradcurate.sketches.oracle import exact_gradient
from gradcurate.sketches.token_batch import pad_rollouts

VOCABULARY = 101  # of tiny_models


def random_rollouts(count, seed=0, split="pool", longest=12):
    """Rollouts of random tokens, lengths and weights; two of each problem."""
    rng = np.random.default_rng(seed)
    return [
        LiveRollout(
            problem_id=f"{split}{number // 2}",
            rollout=number % 2,
            split=split,
            prompt=tuple(rng.integers(0, VOCABULARY, rng.integers(1, longest + 1)).tolist()),
            completion=tuple(rng.integers(0, VOCABULARY, rng.integers(1, longest + 1)).tolist()),
            weight=float(rng.normal()),
        )
        for number in range(count)
    ]


def as_batch(rollouts):
    return pad_rollouts([r.prompt for r in rollouts], [r.completion for r in rollouts], torch.device("cpu"))


def exact(sketcher, rollouts, weights=None, temperature=None):
    """The weighted gradient by plain autograd."""
    weights = [1.0] * len(rollouts) if weights is None else weights
    weighted = [(r.prompt, r.completion, w) for r, w in zip(rollouts, weights, strict=True)]
    return exact_gradient(
        sketcher.model, sketcher.space, weighted, sketcher.temperature if temperature is None else temperature
    )


def sketch_by_definition(projection, matrix):
    """Entry (o, i), times s1(o) s2(i), into bucket (offset + (o + i) mod n) mod K; in float64."""
    outputs, inputs = matrix.shape
    own = (torch.arange(outputs)[:, None] + torch.arange(inputs)) % projection.buckets
    buckets = (projection.offset + own) % projection.dim
    signed = projection.output_signs[:, None] * projection.input_signs * matrix.double()
    sums = torch.zeros(projection.dim, dtype=torch.float64)
    return sums.index_add_(0, buckets.flatten(), signed.flatten())


def sketch_gradient(sketcher, gradient):
    """S applied to a whole gradient."""
    return sum(sketch_by_definition(sketcher.projections[name], matrix) for name, matrix in gradient.items())


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()
