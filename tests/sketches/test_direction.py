"""The validation direction on disk, and the two products that make and use it."""

import pytest
import torch
from safetensors import safe_open

from gradcurate.sketches.direction import (
    directional_derivatives,
    load_direction,
    norm,
    save_direction,
    weighted_gradient,
    zero_direction,
)
from gradcurate.sketches.direction_record import DirectionRecord, read_record
from gradcurate.sketches.modules import find_gradient_space
from tiny_models import tiny_llama

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def space(model):
    return find_gradient_space(model)


@pytest.fixture
def direction(space):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(matrix.shape, generator=generator)
        for name, matrix in zero_direction(space, CPU).items()
    }


def test_a_direction_survives_the_file_bit_for_bit(space, direction, tmp_path):
    record = DirectionRecord(norm(direction), 3, {"sketch_dim": 256, "policy": "abc", "system_prompt": None})
    save_direction(direction, space, tmp_path / "direction.safetensors", record)
    restored = load_direction(tmp_path / "direction.safetensors", space, CPU)
    assert restored.keys() == direction.keys()
    assert all(torch.equal(restored[name], direction[name]) for name in direction)
    assert read_record(tmp_path / "direction.safetensors") == record


def test_the_file_has_the_weights_own_names_and_shapes(model, space, direction, tmp_path):
    save_direction(direction, space, tmp_path / "direction.safetensors", DirectionRecord(1.0, 1, {}))
    weights = dict(model.named_parameters())
    with safe_open(tmp_path / "direction.safetensors", framework="pt") as file:
        assert set(file.keys()) == {f"{name}.weight" for name in space.linear_names}
        for name in file.keys():  # noqa: SIM118 (not a dict)
            assert file.get_tensor(name).shape == weights[name].shape


def test_norm_is_that_of_all_weights_together(direction):
    flat = torch.cat([matrix.flatten() for matrix in direction.values()]).double()
    assert norm(direction) == pytest.approx(flat.norm().item(), rel=1e-12)


def test_derivatives_and_weighted_gradients_are_two_sides_of_one_sum():
    """sum_b w[b] <G[b], V> = <sum_b w[b] G[b], V>, with every G formed by hand."""
    generator = torch.Generator().manual_seed(1)
    inputs, stacked = (torch.randn(3, 7, n, generator=generator) for n in (5, 11))
    grads = stacked.split([4, 7], dim=2)  # one member is narrower than the input, one wider
    matrix, weights = torch.randn(11, 5, generator=generator), torch.tensor([0.5, -2.0, 1.0])
    formed = torch.einsum("bto,bti->boi", stacked.double(), inputs.double())
    derivatives = directional_derivatives(matrix, inputs, grads)
    assert derivatives.dtype == torch.float64
    assert torch.allclose(derivatives, (formed * matrix).sum((1, 2)), rtol=1e-5, atol=1e-5)
    expected = (weights[:, None, None] * formed).sum(0).float()
    assert torch.allclose(weighted_gradient(inputs, grads, weights), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(weighted_gradient(inputs, grads, weights.flip(0)), expected, rtol=0.1)
