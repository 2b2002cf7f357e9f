"""Truncated importance sampling: each token's gradient times how much likelier it has become."""

import math
from dataclasses import replace

import pytest
import torch

from gradcurate.sketches import output_layer
from gradcurate.sketches.live_rollouts import LiveGroup
from gradcurate.sketches.live_sketches import sketch_rows
from gradcurate.sketches.oracle import exact_gradient, token_logprobs
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.score_function import importance_weights
from gradcurate.sketches.sketcher import build_sketcher
from sketches.reference import random_rollouts, relative_error, sketch_gradient
from tiny_models import tiny_llama

CAP, TEMPERATURE = 1.5, 0.8
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def sketcher():
    plain = build_sketcher(tiny_llama(), Projection(256), temperature=TEMPERATURE)
    return replace(plain, importance_cap=CAP)


def logprobs(sketcher, rollout):
    with torch.no_grad():
        return token_logprobs(sketcher.model, rollout.prompt, rollout.completion, TEMPERATURE)


@pytest.fixture(scope="module")
def stale(sketcher):
    """Rollouts of a policy that found tokens half to twice as likely; of the last one nothing is known."""
    torch.manual_seed(0)
    rollouts = random_rollouts(5)
    moved = [logprobs(sketcher, r) + torch.randn(len(r.completion)) * 0.7 for r in rollouts]
    known = [replace(r, sampling_logprobs=m.tolist()) for r, m in zip(rollouts, moved, strict=True)]
    return [*known[:-1], rollouts[-1]]


def token_weights(sketcher, rollout):
    if rollout.sampling_logprobs is None:
        return torch.ones(len(rollout.completion))
    ratios = (logprobs(sketcher, rollout) - torch.tensor(rollout.sampling_logprobs)).exp()
    return torch.minimum(ratios, torch.tensor(CAP))


def expected(sketcher, rollout, weights):
    rows = [(rollout.prompt, rollout.completion, weights)]
    return sketch_gradient(sketcher, exact_gradient(sketcher.model, sketcher.space, rows, TEMPERATURE))


@pytest.fixture(params=[None, 7], ids=["at once", "by chunks"])
def chunks(request, monkeypatch, sketcher):
    if request.param:
        width = sketcher.model.lm_head.weight.shape[0]
        monkeypatch.setitem(output_layer.LOGITS_PER_CHUNK, "cpu", request.param * width)


@pytest.mark.usefixtures("chunks")
def test_a_sketch_is_of_the_weighed_gradient(sketcher, stale):
    sketches = sketch_rows(sketcher, stale).sketches
    for rollout, sketch in zip(stale, sketches, strict=True):
        weights = token_weights(sketcher, rollout)
        assert relative_error(sketch, expected(sketcher, rollout, weights)) < TOLERANCE
        if rollout.sampling_logprobs is not None:
            assert relative_error(sketch, expected(sketcher, rollout, torch.ones_like(weights))) > 0.01


def test_without_a_cap_nothing_is_weighed(sketcher, stale):
    plain = sketch_rows(replace(sketcher, importance_cap=None), stale).sketches
    unknown = sketch_rows(sketcher, [replace(r, sampling_logprobs=None) for r in stale]).sketches
    assert torch.equal(plain, unknown)
    assert not torch.allclose(plain, sketch_rows(sketcher, stale).sketches, rtol=0.01)


def test_the_policy_s_own_rollouts_are_not_weighed(sketcher):
    own = [replace(r, sampling_logprobs=logprobs(sketcher, r).tolist()) for r in random_rollouts(3, seed=1)]
    plain = sketch_rows(replace(sketcher, importance_cap=None), own).sketches
    assert relative_error(sketch_rows(sketcher, own).sketches, plain) < TOLERANCE


def test_cutting_a_batch_changes_nothing(sketcher, stale):
    whole = sketch_rows(sketcher, stale).sketches
    halves = sketch_rows(replace(sketcher, single_rows=True), stale).sketches
    assert relative_error(halves, whole) < TOLERANCE


def test_a_group_is_the_weighted_sum_of_its_rollouts(sketcher, stale):
    group = [replace(r, prompt=stale[0].prompt, problem_id="p", rollout=n) for n, r in enumerate(stale[:3])]
    moved = [replace(r, sampling_logprobs=(logprobs(sketcher, r) - 0.3).tolist()) for r in group]
    (together,) = sketch_rows(sketcher, [LiveGroup(tuple(moved))]).sketches
    apart = sketch_rows(sketcher, moved).sketches
    weights = torch.tensor([r.weight for r in moved])
    assert relative_error(together, (weights[:, None] * apart).sum(0)) < TOLERANCE


def test_weights_are_ratios_up_to_the_cap():
    now, then = torch.tensor([-1.0, -1.0, -1.0, -0.5]), torch.tensor([-1.5, -9.0, 0.0, torch.nan])
    weights = importance_weights(now, then, 2.0)
    assert weights.tolist() == pytest.approx([math.exp(0.5), 2.0, math.exp(-1.0), 1.0])
    assert importance_weights(torch.tensor([0.0]), torch.tensor([-1e4]), 2.0).tolist() == [2.0]
