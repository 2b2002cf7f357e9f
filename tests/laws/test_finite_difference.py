"""A small step along a gradient moves the objective by as much as the gradient says."""

import copy

import pytest
import torch

from gradcurate.sketches.direction import norm, zero_direction
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from sketches.reference import as_batch, random_rollouts
from tiny_models import tiny_llama

TOLERANCE = 1e-4  # central differences are off by O(step²); the gradient itself is summed in float32
STEP = 1e-4  # of the gradient's own length
TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def sketcher():
    return build_sketcher(tiny_llama().double(), Projection(256), temperature=TEMPERATURE)


def gradient(sketcher, rollouts):
    total = zero_direction(sketcher.space, torch.device("cpu"))
    weights = torch.tensor([rollout.weight for rollout in rollouts])
    sketch_batch(sketcher, as_batch(rollouts), onto=total, weights=weights)
    return total


@torch.no_grad()
def objective(model, rollouts):
    """sum_i w[i] log pi(rollout i), all in float64."""
    total = 0.0
    for rollout in rollouts:
        tokens = torch.tensor([rollout.prompt + rollout.completion])
        logprobs = (model(input_ids=tokens).logits[0] / TEMPERATURE).log_softmax(-1)
        start = len(rollout.prompt)
        chosen = logprobs[torch.arange(start - 1, tokens.shape[1] - 1), tokens[0, start:]]
        total += rollout.weight * chosen.sum().item()
    return total


def moved(sketcher, direction, step):
    model = copy.deepcopy(sketcher.model)
    for fused in sketcher.space.modules:
        parts = direction[fused.name].split(list(fused.member_features))
        for member, part in zip(fused.members, parts, strict=True):
            model.get_parameter(member.parameter).add_(member.to_weight(part), alpha=step)
    return model


def slope(sketcher, direction, rollouts):
    """The derivative of the rollouts' objective along the direction, by central differences."""
    step = STEP / norm(direction)
    ahead, behind = (objective(moved(sketcher, direction, s), rollouts) for s in (step, -step))
    return (ahead - behind) / (2 * step)


def test_a_step_along_the_gradient_gains_its_squared_length(sketcher):
    rollouts = random_rollouts(3)
    direction = gradient(sketcher, rollouts)
    assert slope(sketcher, direction, rollouts) == pytest.approx(norm(direction) ** 2, rel=TOLERANCE)
    others = random_rollouts(3, seed=1)
    assert slope(sketcher, direction, others) != pytest.approx(norm(direction) ** 2, rel=0.1)


def test_a_step_along_a_problem_moves_validation_by_its_derivative(sketcher):
    """What a score's numerator means: sum_i w[i] <g[i], v>."""
    validation, problem = random_rollouts(4, seed=2, split="validation"), random_rollouts(2, seed=3)
    direction = gradient(sketcher, validation)
    derivatives = sketch_batch(sketcher, as_batch(problem), along=direction).directional
    weights = torch.tensor([rollout.weight for rollout in problem]).double()
    dot = (weights @ derivatives).item()
    change = slope(sketcher, gradient(sketcher, problem), validation)
    scale = norm(direction) * norm(gradient(sketcher, problem))
    assert abs(change - dot) < TOLERANCE * scale
    assert abs(change - derivatives.sum().item()) > 10 * TOLERANCE * scale  # unweighted
