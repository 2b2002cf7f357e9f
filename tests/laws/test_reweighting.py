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
from gradcurate.scores.evidence import Along, Evidence, Weighting
from gradcurate.scores.groups import Group
from gradcurate.scores.stored import read_rows
from gradcurate.scores.token_weights import TOKEN_WEIGHTS
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from gradcurate.sketches.stage import SketchStage, run_pool_sketches, run_validation_sketches
from sketches.reference import as_batch, exact, random_rollouts, relative_error, sketch_gradient
from tiny_models import tiny_llama

REWARDS = np.array([1.0, 0.0, 0.25, 0.0, 0.75, 0.5])
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


@pytest.fixture(scope="module")
def direction(sketcher):
    """The exact gradient that derivatives are taken along: the sum of these same rollouts'."""
    return exact(sketcher, ROLLOUTS)


def evidence(stored, advantage, token_weight, rewards=REWARDS):
    """What scores are computed from: the stored rows under any weighting."""
    [rows] = read_rows(stored, "pool", {"p": range(len(ROLLOUTS))})
    lengths = np.array([len(rollout.completion) for rollout in ROLLOUTS])
    weighting = Weighting(advantage, token_weight)
    gram = (rows.sketches @ rows.sketches.T).astype(np.float64)
    found = Evidence("p", weighting, rewards, lengths, rows.derivatives, gram, Along(1.0, 1.0))
    return found, rows.sketches


def other_preset(token_weight):
    """Token weights that give no multiple of these weights."""
    (other,) = set(TOKEN_WEIGHTS) - {token_weight}
    return other


@pytest.mark.parametrize(("advantage", "token_weight"), PRESETS)
def test_before_storage_to_rounding(sketcher, live, advantage, token_weight):
    weights = weights_by(advantage, token_weight)
    computed = sketch_gradient(sketcher, exact(sketcher, ROLLOUTS, weights.tolist()))
    assert relative_error(torch.from_numpy(weights) @ live, computed) < 1e-5
    others = weights_by(advantage, other_preset(token_weight))
    assert relative_error(torch.from_numpy(others) @ live, computed) > 0.1


@pytest.mark.parametrize(("advantage", "token_weight"), PRESETS)
def test_after_storage_to_half_precision(sketcher, live, stored, advantage, token_weight):
    mine, sketches = evidence(stored, advantage, token_weight)
    weights = weights_by(advantage, token_weight)
    assert mine.weights == pytest.approx(weights)
    computed = sketch_gradient(sketcher, exact(sketcher, ROLLOUTS, weights.tolist())).numpy()
    bound = HALF_PRECISION * (np.abs(weights) @ live.norm(dim=1).numpy())
    assert np.linalg.norm(mine.weights @ sketches - computed) < bound
    assert abs(mine.norm - np.linalg.norm(computed)) < bound
    other, _ = evidence(stored, advantage, other_preset(token_weight))
    assert np.linalg.norm(other.weights @ sketches - computed) > 10 * bound
    assert abs(other.norm - np.linalg.norm(computed)) > 10 * bound


@pytest.mark.parametrize(("advantage", "token_weight"), PRESETS)
def test_the_derivative_is_reweighted_exactly(sketcher, direction, stored, advantage, token_weight):
    """Storage leaves it whole, and no projection is in it."""
    mine, sketches = evidence(stored, advantage, token_weight)
    weighted = exact(sketcher, ROLLOUTS, weights_by(advantage, token_weight).tolist())
    dot = sum((weighted[name].double() * direction[name].double()).sum().item() for name in weighted)
    terms = float(np.abs(mine.weights) @ np.abs(mine.derivatives))
    assert abs(mine.dot - dot) < 1e-5 * terms
    other, _ = evidence(stored, advantage, other_preset(token_weight))
    assert abs(other.dot - dot) > 1e-2 * terms
    sketched = (mine.weights @ sketches) @ sketches.sum(0)
    assert abs(sketched - dot) > 1e-3 * terms


@pytest.mark.parametrize("token_weight", TOKEN_WEIGHTS)
@pytest.mark.parametrize("advantage", sorted(ADVANTAGES.keys() - {"maxrl", "grpo_passk"}))
def test_corrected_rewards_need_no_gradient(stored, advantage, token_weight):
    """Every reward was given the wrong way round: so is the gradient."""
    mine, _ = evidence(stored, advantage, token_weight)
    corrected, _ = evidence(stored, advantage, token_weight, rewards=1 - REWARDS)
    assert corrected.dot == pytest.approx(-mine.dot, rel=1e-4)
    assert corrected.norm == pytest.approx(mine.norm, rel=1e-4)
