"""Sketches against UNprojected inner products: E<Sx, Sy> = <x, y>, whatever the modules' shapes.

A sketch verified only against itself would pass with modules silently re-weighted by their shape.
"""

import functools
import math

import pytest
import torch

from gradcurate.sketches.modules import FusedModule, Member
from gradcurate.sketches.projection import Projection, buckets_per_module, project_module

SEEDS = 600
Z_BOUND = 4.0  # standard errors of the mean over seeds; seeds are fixed, so the outcome is too
DIM = 64
MODULES = {
    "square": [(64, 64)],
    "tall": [(160, 8)],
    "wide": [(8, 160)],
    "small": [(4, 6)],
    "several": [(48, 16), (12, 40), (4, 6)],
}


def gradient_pair(shapes, seed=0):
    """Two unit gradients over the modules, <x, y> about 0.6; every module has the same share per weight."""
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(shape, generator=generator) for shape in shapes]
    y = [0.6 * left + 0.8 * torch.randn(left.shape, generator=generator) for left in x]
    return [[part / length(vector) for part in vector] for vector in (x, y)]


def length(vector):
    return math.sqrt(sum(part.square().sum().item() for part in vector))


def dot(x, y):
    return sum((left * right).sum().item() for left, right in zip(x, y, strict=True))


@functools.cache
def draw(number, outputs, inputs, dim, buckets, seeds):
    module = FusedModule(f"layers.{number}", (Member("m", "m.weight", (outputs, inputs)),))
    drawn = [project_module(Projection(dim, seed), module, buckets, torch.device("cpu")) for seed in seeds]
    signs = (torch.stack([getattr(p, side) for p in drawn]) for side in ("output_signs", "input_signs"))
    return *signs, torch.tensor([p.offset for p in drawn])


def sketches(gradient, dim, seeds, buckets=None):
    """S of a gradient for many seeds at once, from the definition (test_kernels: the kernels are that)."""
    total, buckets = torch.zeros(len(seeds), dim), buckets or buckets_per_module(dim, len(gradient))
    for number, matrix in enumerate(gradient):
        outputs, inputs = matrix.shape
        left, right, offsets = draw(number, outputs, inputs, dim, buckets, seeds)
        signed = left[:, :, None] * right[:, None, :] * matrix
        antidiagonals = (torch.arange(outputs)[:, None] + torch.arange(inputs)) % buckets
        sums = torch.zeros(len(seeds), dim).index_add_(1, antidiagonals.flatten(), signed.flatten(1))
        total += sums.gather(1, (torch.arange(dim) - offsets[:, None]) % dim)
    return total


def products(x, y, dim=DIM, seeds=SEEDS, other_seed=0, buckets=None):
    """<S x, S' y> for many seeds; S' is S unless ``other_seed`` moves it away."""
    left = sketches(x, dim, range(seeds), buckets)
    return (left * sketches(y, dim, range(other_seed, other_seed + seeds), buckets)).sum(1)


def z_score(samples, expected):
    return abs(samples.mean().item() - expected) / (samples.std().item() / math.sqrt(len(samples)))


@pytest.mark.parametrize("shapes", MODULES.values(), ids=MODULES)
def test_the_mean_over_seeds_is_the_inner_product(shapes):
    x, y = gradient_pair(shapes)
    samples = products(x, y)
    assert z_score(samples, dot(x, y)) < Z_BOUND
    # The bound is sharp enough to see a module scaled by a quarter.
    assert z_score(samples, 1.25 * dot(x, y)) > Z_BOUND


def test_different_seeds_for_both_sides_give_zero():
    x, y = gradient_pair(MODULES["several"])
    samples = products(x, y, other_seed=10**6)
    assert z_score(samples, 0.0) < Z_BOUND
    assert z_score(samples, dot(x, y)) > Z_BOUND


def test_cross_terms_of_two_modules_vanish():
    """Two modules share buckets, but a gradient in one is orthogonal to a gradient in the other."""
    x, _ = gradient_pair([(48, 16), (48, 16)])
    only_first, only_second = [x[0], torch.zeros(48, 16)], [torch.zeros(48, 16), x[0]]
    assert z_score(products(only_first, only_second), 0.0) < Z_BOUND
    assert products(only_first, only_first, seeds=50).mean() > 0.3


@pytest.mark.parametrize("dim", [32, 128])
def test_the_variance_is_that_of_k_buckets(dim):
    """Var <Sx, Sy> = (|x|²|y|² + <x, y>²) / K for dense gradients of modules wider than K."""
    x, y = gradient_pair([(128, 128)])
    variance = products(x, y, dim, seeds=400, buckets=dim).var().item()
    expected = (1 + dot(x, y) ** 2) / dim
    assert 0.7 < variance / expected < 1.4  # a variance of 400 draws has a relative error of about 0.07


def test_many_small_modules_spread_over_the_buckets():
    """Each is far narrower than K; without their random offsets the error would be several times larger."""
    x, y = gradient_pair([(6, 6)] * 40)
    variance = products(x, y, dim=256, seeds=150).var().item()
    own = (1 + dot(x, y) ** 2) * (1 / 256 + 1 / 40 / 11)  # buckets met by chance + within 11 antidiagonals
    assert variance < 1.5 * own


def test_fewer_buckets_for_each_of_many_modules_cost_little():
    """Of 64 equal modules, each has 32 of 80 buckets: (K/n - 1) / L = 2 % more variance, not 150 %."""
    x, y = gradient_pair([(48, 48)] * 64)
    few, all_ = (products(x, y, dim=80, seeds=300, buckets=n).var().item() for n in (32, 80))
    assert buckets_per_module(80, 64) == 32
    assert few < 1.3 * all_  # either variance has a relative error of about 0.08
    alone = [products(x[:1], y[:1], dim=80, seeds=300, buckets=n).var().item() for n in (32, 80)]
    assert alone[0] > 1.7 * alone[1]  # a module that is alone does need them
