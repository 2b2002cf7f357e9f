"""The validation direction on disk, and the two products that make and use it."""

import pytest
import torch
from safetensors import safe_open

from gradcurate.sketches.direction import (
    load_direction,
    norm,
    save_direction,
    zero_direction,
)
from gradcurate.sketches.direction_record import DirectionRecord, read_record
from gradcurate.sketches.discovery import find_gradient_space
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
        assert set(file.keys()) == {member.parameter for member in space.members}
        for name in file.keys():  # noqa: SIM118 (not a dict)
            assert file.get_tensor(name).shape == weights[name].shape


def test_norm_is_that_of_all_weights_together(direction):
    flat = torch.cat([matrix.flatten() for matrix in direction.values()]).double()
    assert norm(direction) == pytest.approx(flat.norm().item(), rel=1e-12)
