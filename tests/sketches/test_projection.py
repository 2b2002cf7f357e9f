"""S depends on (name, shape, seed, K) alone."""

import numpy as np
import pytest
import torch

from gradcurate.sketches.modules import FusedModule, Member
from gradcurate.sketches.projection import Projection, buckets_per_module, project_module

CPU = torch.device("cpu")
OFFSET = 184
OUTPUT_SIGNS = "+-++----+++---+++-+--+-+++++-+--+++-+-++"
INPUT_SIGNS = "+++----+-+----++++++"


def draw(name="layers.0.mlp.gate+up", outputs=(16, 24), inputs=20, seed=0, dim=256, device=CPU):
    members = tuple(Member(f"{name}{n}", f"{name}{n}.weight", (o, inputs)) for n, o in enumerate(outputs))
    return project_module(Projection(dim, seed), FusedModule(name, members), dim, device)


def contents(projection):
    return projection.offset, projection.output_signs.tolist(), projection.input_signs.tolist()


def signs(row):
    return "".join("+" if sign > 0 else "-" for sign in row.tolist())


def test_s_is_the_same_in_every_process_and_version():
    """Written down, since stored sketches of an earlier round must stay comparable."""
    projection = draw()
    assert projection.offset == OFFSET
    assert signs(projection.output_signs) == OUTPUT_SIGNS
    assert signs(projection.input_signs) == INPUT_SIGNS


def test_global_random_state_and_default_device_play_no_part():
    first = draw()
    torch.manual_seed(7)
    np.random.seed(7)
    with torch.device("meta"):
        assert contents(draw()) == contents(first)


def test_signs_lie_on_the_asked_device():
    projection = draw(device=torch.device("meta"))
    assert projection.output_signs.device == projection.input_signs.device == torch.device("meta")
    assert projection.offset == draw().offset


def test_how_a_module_is_split_into_members_plays_no_part():
    assert contents(draw(outputs=(40,))) == contents(draw(outputs=(16, 24)))


@pytest.mark.parametrize(
    "change",
    [{"name": "layers.1.mlp.gate+up"}, {"outputs": (16, 25)}, {"inputs": 21}, {"seed": 1}, {"dim": 128}],
    ids=lambda change: next(iter(change)),
)
def test_s_changes_with(change):
    assert contents(draw(**change)) != contents(draw())


def test_the_signs_change_with_the_seed_in_about_half_of_the_places():
    one, other = (draw(outputs=(4000,), seed=seed).output_signs for seed in (0, 1))
    assert 0.45 < (one == other).float().mean() < 0.55


def test_offsets_spread_over_all_buckets():
    """Small modules must not crowd into the first buckets."""
    offsets = [draw(name=f"layers.{layer}", dim=256).offset for layer in range(512)]
    quarters = np.bincount(np.array(offsets) // 64, minlength=4)
    assert quarters.sum() == 512  # all in [0, K)
    assert quarters.min() > 90  # 128 expected, standard deviation 10


@pytest.mark.parametrize(
    ("dim", "modules", "buckets"),
    [(4096, 1, 4000), (4096, 8, 3456), (4096, 120, 1024), (64, 8, 64), (2, 120, 2)],
)
def test_the_more_modules_there_are_the_fewer_buckets_each_has(dim, modules, buckets):
    assert buckets_per_module(dim, modules) == buckets
