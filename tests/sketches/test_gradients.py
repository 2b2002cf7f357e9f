"""What is asked of a module's gradients, against gradients formed by hand."""

import pytest
import torch

from gradcurate.sketches.gradients import Factored, Formed
from gradcurate.sketches.kernels import KERNELS
from gradcurate.sketches.modules import FusedModule, Member
from gradcurate.sketches.projection import Projection, project_module
from sketches.reference import relative_error, sketch_by_definition

GENERATOR = torch.Generator().manual_seed(1)
INPUTS, STACKED = (torch.randn(3, 7, n, generator=GENERATOR) for n in (5, 11))
FACTORED = Factored(INPUTS, STACKED.split([4, 7], dim=2))  # one member is narrower than the input, one wider
BY_HAND = torch.einsum("bto,bti->boi", STACKED.double(), INPUTS.double())
FORMED = [Formed(gradient.float()) for gradient in BY_HAND]
MATRIX, WEIGHTS = torch.randn(11, 5, generator=GENERATOR), torch.tensor([0.5, -2.0, 1.0])


def test_derivatives_are_sums_over_all_entries():
    expected = (BY_HAND * MATRIX).sum((1, 2))
    derivatives = FACTORED.along(MATRIX)
    assert derivatives.dtype == torch.float64
    assert torch.allclose(derivatives, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(derivatives.flip(0), expected, rtol=0.1)
    assert torch.allclose(
        torch.cat([formed.along(MATRIX) for formed in FORMED]), expected, rtol=1e-5, atol=1e-5
    )


def test_weighted_gradients_add_up():
    expected = (WEIGHTS[:, None, None] * BY_HAND).sum(0).float()
    assert torch.allclose(FACTORED.weighted(WEIGHTS), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(FACTORED.weighted(WEIGHTS.flip(0)), expected, rtol=0.1)
    parts = zip(FORMED, WEIGHTS, strict=True)
    assert torch.allclose(sum(f.weighted(w[None]) for f, w in parts), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("buckets", [32, 13])
def test_buckets_are_those_of_the_definition(kernel, buckets):
    module = FusedModule("m", (Member("m", "m.weight", (11, 5)),))
    projection = project_module(Projection(32), module, buckets, torch.device("cpu"))
    factored = FACTORED.buckets(KERNELS[kernel](), projection)
    for row, gradient in enumerate(BY_HAND):
        expected = sketch_by_definition(projection, gradient).roll(-projection.offset)
        for found in (factored[row], FORMED[row].buckets(KERNELS[kernel](), projection)[0]):
            assert relative_error(found.double(), expected[: len(found)]) < 1e-5
            assert not expected[len(found) :].any()
