"""Weighting stored rows afterwards is the same as computing the weighted gradient.

So another advantage, token weight or corrected reward costs a sum over rows and no gradient pass.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from gradcurate.progress import Silent
from gradcurate.scores.advantages import ADVANTAGES
from gradcurate.scores.alignment import sum_gradients
from gradcurate.scores.groups import Group
from gradcurate.scores.token_weights import TOKEN_WEIGHTS
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from gradcurate.sketches.stage import SketchStage, run_pool_sketches, run_validation_sketches
from sketches.reference import as_batch, exact, random_rollouts, relative_error, sketch_gradient
from tiny_models import tiny_llama

REWARDS = np.array([1.0, 0.0, 0.25, 0.0, 1.0, 0.5])
HALF_PRECISION = 2.0**-11  # the relative error of one rounding to float16
ROLLOUTS = [
    dataclasses.replace(rollout, problem_id="p", rollout=number)
    for number, rollout in enumerate(random_rollouts(len(REWARDS), seed=4))
]
PRESETS = list(itertools.product(ADVANTAGES, TOKEN_WEIGHTS))


def weights_by(advantage, token_weight, rewards=REWARDS):
    lengths = np.array([len(rollout.completion) for rollout in ROLLOUTS])
    group = Group("p", "pool", np.arange(len(ROLLOUTS)), rewards, lengths, failed=0)
    return group.weights(advantage, token_weight)


@pytest.fixture(scope="module")
def sketcher():
    return build_sketcher(tiny_llama(), Projection(256))


@pytest.fixture(scope="module")
def stored(sketcher, tmp_path_factory):
    """Shards of the rollouts, made with weights of 1."""
    run = tmp_path_factory.mktemp("run")
    stage = SketchStage(lambda: sketcher, run / "sketches", run / "validation" / "direction.safetensors", {})
    validation = [dataclasses.replace(r, split="validation", weight=1.0) for r in ROLLOUTS]
    run_validation_sketches(stage, [tuple(validation)], Silent())
    run_pool_sketches(stage, [tuple(ROLLOUTS[:4]), tuple(ROLLOUTS[4:])], Silent())
    return run / "sketches"


@pytest.fixture(scope="module")
def live(sketcher):
    return sketch_batch(sketcher, as_batch(ROLLOUTS)).sketches.double()


def other_preset(advantage, token_weight):
    """Weights that are no multiple of these: other token weights."""
    (other,) = set(TOKEN_WEIGHTS) - {token_weight}
    return weights_by(advantage, other)


@pytest.mark.parametrize(("advantage", "token_weight"), PRESETS)
def test_before_storage_to_rounding(sketcher, live, advantage, token_weight):
    weights = weights_by(advantage, token_weight)
    computed = sketch_gradient(sketcher, exact(sketcher, ROLLOUTS, weights.tolist()))
    assert relative_error(torch.from_numpy(weights) @ live, computed) < 1e-5
    assert relative_error(torch.from_numpy(other_preset(advantage, token_weight)) @ live, computed) > 0.1


@pytest.mark.parametrize(("advantage", "token_weight"), PRESETS)
def test_after_storage_to_half_precision(sketcher, live, stored, advantage, token_weight):
    weights = weights_by(advantage, token_weight)
    computed = sketch_gradient(sketcher, exact(sketcher, ROLLOUTS, weights.tolist())).numpy()
    reweighted = sum_gradients(stored, "pool", {"p": dict(enumerate(weights))})
    bound = HALF_PRECISION * (np.abs(weights) @ live.norm(dim=1).numpy())
    assert np.linalg.norm(reweighted.sketches["p"] - computed) < bound
    other = sum_gradients(stored, "pool", {"p": dict(enumerate(other_preset(advantage, token_weight)))})
    assert np.linalg.norm(other.sketches["p"] - computed) > 10 * bound


def test_the_derivative_is_reweighted_exactly(sketcher, stored):
    """The direction was the sum of these same rollouts, so <sum w g, sum g> is known."""
    weights = weights_by("grpo", "response-mean")
    weighted, summed = exact(sketcher, ROLLOUTS, weights.tolist()), exact(sketcher, ROLLOUTS)
    dot = sum((weighted[name].double() * summed[name].double()).sum().item() for name in summed)
    reweighted = sum_gradients(stored, "pool", {"p": dict(enumerate(weights))})
    assert reweighted.dots["p"] == pytest.approx(dot, rel=1e-4)
    corrected = weights_by("grpo", "response-mean", rewards=1 - REWARDS)
    assert sum_gradients(stored, "pool", {"p": dict(enumerate(corrected))}).dots["p"] == pytest.approx(
        -dot, rel=1e-4
    )
