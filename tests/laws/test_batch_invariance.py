"""A rollout's sketch is its own: batch mates, padding and order play no part."""

import pytest
import torch

from gradcurate.sketches.kernels import KERNELS
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from sketches.reference import as_batch, random_rollouts, relative_error
from tiny_models import tiny_llama

TOLERANCE = 1e-5
ROLLOUTS = random_rollouts(5)
LONG = random_rollouts(1, seed=9, longest=60)[0]


@pytest.fixture(scope="module", params=KERNELS)
def sketcher(request):
    return build_sketcher(tiny_llama(), Projection(256), request.param)


@pytest.fixture(scope="module")
def alone(sketcher):
    return torch.cat([sketch_batch(sketcher, as_batch([rollout])).sketches for rollout in ROLLOUTS])


def largest_error(actual, expected):
    return max(relative_error(a, e) for a, e in zip(actual, expected, strict=True))


def test_batch_size(sketcher, alone):
    together = sketch_batch(sketcher, as_batch(ROLLOUTS)).sketches
    assert largest_error(together, alone) < TOLERANCE
    assert min(relative_error(a, e) for a, e in zip(together, alone.roll(1, 0), strict=True)) > 0.1


def test_padding(sketcher, alone):
    assert LONG.tokens > 3 * max(rollout.tokens for rollout in ROLLOUTS)
    padded = sketch_batch(sketcher, as_batch([*ROLLOUTS, LONG])).sketches
    assert largest_error(padded[:-1], alone) < TOLERANCE


def test_row_order(sketcher, alone):
    backwards = sketch_batch(sketcher, as_batch(ROLLOUTS[::-1])).sketches
    assert largest_error(backwards.flip(0), alone) < TOLERANCE


def test_the_same_rollout_twice(sketcher, alone):
    twice = sketch_batch(sketcher, as_batch([ROLLOUTS[0], ROLLOUTS[1], ROLLOUTS[0]])).sketches
    assert largest_error(twice, alone[[0, 1, 0]]) < TOLERANCE


def test_derivatives_and_logprobs(sketcher):
    direction = {m.name: torch.randn(m.out_features, m.in_features) for m in sketcher.space.modules}
    together = sketch_batch(sketcher, as_batch([*ROLLOUTS, LONG]), along=direction)
    for row, rollout in enumerate(ROLLOUTS):
        single = sketch_batch(sketcher, as_batch([rollout]), along=direction)
        scale = (
            together.sketches[row].norm().item() * sum(v.square().sum() for v in direction.values()) ** 0.5
        )
        assert abs(single.directional[0] - together.directional[row]) < TOLERANCE * scale
        assert single.logprobs[0].item() == pytest.approx(together.logprobs[row].item(), rel=TOLERANCE)
        assert single.logprobs[0].item() != pytest.approx(together.logprobs[row - 1].item(), rel=TOLERANCE)
