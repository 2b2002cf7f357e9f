"""The oracle itself: linear in the weights, and it leaves the model frozen."""

import pytest
import torch

from gradcurate.sketches.direction import dot, norm
from gradcurate.sketches.oracle import cosine, exact_gradient
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher
from sketches.reference import exact, random_rollouts
from tiny_models import tiny_llama


def test_weighted_gradients_add_up():
    sketcher = build_sketcher(tiny_llama(), Projection(64))
    one, two = random_rollouts(2)
    first, second = exact(sketcher, [one]), exact(sketcher, [two])
    both = exact(sketcher, [one, two], [2.0, -3.0])
    error = {name: both[name] - 2 * first[name] + 3 * second[name] for name in both}
    assert norm(error) < 1e-5 * norm(both)
    assert norm({name: both[name] - 2 * first[name] for name in both}) > 0.1 * norm(both)


def test_no_rollouts_have_a_zero_gradient():
    sketcher = build_sketcher(tiny_llama(), Projection(64))
    assert norm(exact(sketcher, [])) == 0
    assert norm(exact(sketcher, random_rollouts(1))) > 0


def test_the_model_is_left_frozen_even_after_an_error():
    model = tiny_llama()
    space = build_sketcher(model, Projection(64)).space
    with pytest.raises(IndexError):
        exact_gradient(model, space, [((1,), (10**6,), 1.0)])
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_inner_product_and_cosine():
    left = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[2.0]])}
    right = {"a": torch.tensor([[0.0, 3.0]]), "b": torch.tensor([[-4.0]])}
    assert dot(left, right) == -2.0
    assert cosine(left, right) == pytest.approx(-2 / 15)


def test_bfloat16_gradients_are_summed_in_float32():
    """Summed in bfloat16, a rollout would vanish beside a thousand times its weight."""
    sketcher = build_sketcher(tiny_llama().bfloat16(), Projection(64))
    one, two = random_rollouts(2)
    first, second = exact(sketcher, [one], [1000.0]), exact(sketcher, [two])
    both = exact(sketcher, [one, two], [1000.0, 1.0])
    error = norm({name: both[name] - first[name] - second[name] for name in both})
    rounded = {name: (first[name].bfloat16() + second[name].bfloat16()).float() for name in both}
    assert error < 1e-3 * norm(second)
    assert norm({name: rounded[name] - first[name] - second[name] for name in both}) > 0.5 * norm(second)
