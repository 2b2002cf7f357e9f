"""The gradient pass against plain autograd on the weights, one rollout at a time."""

import functools
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from gradcurate.sketches import output_layer
from gradcurate.sketches.direction import dot, norm, zero_direction
from gradcurate.sketches.kernels import KERNELS
from gradcurate.sketches.oracle import cosine
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from sketches.architectures import tiny_gpt2, tiny_model, tiny_opt
from sketches.reference import as_batch, exact, random_rollouts, relative_error, sketch_gradient
from tiny_models import tiny_llama

TOLERANCE = 1e-5
DIM = 256
ROLLOUTS = random_rollouts(4)


def sketcher_of(model, kernel="fft", temperature=1.0, seed=0):
    return build_sketcher(model, Projection(DIM, seed), kernel, temperature)


def oracle_sketches(sketcher, rollouts, temperature=None):
    gradients = [exact(sketcher, [rollout], temperature=temperature) for rollout in rollouts]
    return torch.stack([sketch_gradient(sketcher, gradient) for gradient in gradients])


def oracle_logprob(model, rollout, temperature=1.0):
    tokens = torch.tensor([rollout.prompt + rollout.completion])
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[0].double() / temperature
    start = len(rollout.prompt)
    chosen = logits.log_softmax(-1)[torch.arange(start - 1, tokens.shape[1] - 1), tokens[0, start:]]
    return chosen.sum().item()


@pytest.mark.parametrize("kernel", KERNELS)
def test_sketches_are_s_of_the_exact_gradient(kernel):
    sketcher = sketcher_of(tiny_llama(), kernel)
    sketches = sketch_batch(sketcher, as_batch(ROLLOUTS)).sketches
    expected = oracle_sketches(sketcher, ROLLOUTS)
    for row, sketch in enumerate(sketches):
        assert relative_error(sketch, expected[row]) < TOLERANCE
        assert relative_error(sketch, expected[row - 1]) > 0.1  # another rollout's


ARCHITECTURES = [
    "Qwen2",
    "Qwen3",
    "Gemma",
    "Gemma2",
    "Gemma3",
    "Mistral",
    "Phi",
    "Phi3",
    "GPTNeoX",
    "Mixtral",
]
SPECIAL = {"GPT2": tiny_gpt2, "OPT": tiny_opt, "Qwen3Moe": lambda: tiny_model("Qwen3Moe")}
MATRIX = {**{name: functools.partial(tiny_model, name) for name in ARCHITECTURES}, **SPECIAL}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("model", MATRIX.values(), ids=MATRIX)
def test_other_architectures_are_sketched_exactly(model, kernel):
    """Biases, tied and scaled embeddings, parallel blocks, query norms, soft caps, experts."""
    sketcher = sketcher_of(model(), kernel)
    gradients = [exact(sketcher, [rollout]) for rollout in ROLLOUTS]
    expected = torch.stack([sketch_gradient(sketcher, gradient) for gradient in gradients])
    direction = exact(sketcher, random_rollouts(3, seed=1))
    found = sketch_batch(sketcher, as_batch(ROLLOUTS), along=direction)
    for row, (sketch, gradient) in enumerate(zip(found.sketches, gradients, strict=True)):
        assert relative_error(sketch, expected[row]) < TOLERANCE
        assert relative_error(sketch, expected[row - 1]) > 0.1
        scale = norm(gradient) * norm(direction)
        assert abs(found.directional[row] - dot(gradient, direction)) < TOLERANCE * scale
    assert found.logprobs.tolist() == pytest.approx(
        [oracle_logprob(sketcher.model, rollout) for rollout in ROLLOUTS], rel=1e-5
    )


@pytest.mark.parametrize("architecture", MATRIX)
def test_dot_products_of_sketches_are_those_of_the_exact_gradients(architecture):
    """Within three standard errors, where modules have more anti-diagonals than K: 3/sqrt(K) of the lengths.

    The standard error of any sketch is sqrt((1 + cosine²) / K): a gradient's own square has twice that.
    """
    special = {"GPT2": functools.partial(tiny_gpt2, 128), "OPT": functools.partial(tiny_opt, 128)}
    wide = functools.partial(tiny_model, architecture, hidden_size=128, intermediate_size=160, head_dim=64)
    sketcher = build_sketcher(special.get(architecture, wide)(), Projection(DIM))
    gradients = [exact(sketcher, [rollout]) for rollout in ROLLOUTS]
    rows = zip(sketch_batch(sketcher, as_batch(ROLLOUTS)).sketches, gradients, strict=True)
    for (x, left), (y, right) in itertools.combinations_with_replacement(rows, 2):
        error = abs((x @ y).item() - dot(left, right))
        variance = (2 if left is right else 1) / DIM
        assert error < 3 * math.sqrt(variance) * norm(left) * norm(right)


@pytest.mark.parametrize("model", [tiny_llama, MATRIX["Gemma"], MATRIX["Gemma2"]], ids=["", "tied", "capped"])
def test_the_output_layer_alone_needs_no_backward_pass(model):
    sketcher = build_sketcher(model(), Projection(DIM), modules=["lm_head"])
    asked = []
    for block in sketcher.model.model.layers:
        block.register_forward_hook(lambda _module, _args, output: asked.append(output.requires_grad))
    direction = exact(sketcher, random_rollouts(3, seed=1))
    expected = oracle_sketches(sketcher, ROLLOUTS)
    asked.clear()
    found = sketch_batch(sketcher, as_batch(ROLLOUTS), along=direction)
    assert asked
    assert not any(asked)
    for row, rollout in enumerate(ROLLOUTS):
        assert relative_error(found.sketches[row], expected[row]) < TOLERANCE
        assert relative_error(found.sketches[row], expected[row - 1]) > 0.1
        gradient = exact(sketcher, [rollout])
        error = abs(found.directional[row] - dot(gradient, direction))
        assert error < TOLERANCE * norm(gradient) * norm(direction)


@pytest.mark.parametrize("logits", [1, 300, 2**22])
def test_how_many_logits_are_at_hand_plays_no_part(monkeypatch, logits):
    sketcher = sketcher_of(tiny_llama())
    whole = sketch_batch(replace(sketcher, chunked_head=False), as_batch(ROLLOUTS))
    monkeypatch.setattr(output_layer, "LOGITS_PER_CHUNK", {"cpu": logits})
    chunked = sketch_batch(sketcher, as_batch(ROLLOUTS))
    assert sketcher.chunked_head
    assert relative_error(chunked.sketches, whole.sketches) < TOLERANCE
    assert chunked.token_logprobs.tolist() == pytest.approx(whole.token_logprobs.tolist(), rel=1e-5)


def test_logits_that_are_changed_after_the_output_layer_are_computed_whole():
    assert not sketcher_of(tiny_model("Gemma2")).chunked_head


def test_logprobs_are_those_of_the_completion():
    model = tiny_llama()
    logprobs = sketch_batch(sketcher_of(model), as_batch(ROLLOUTS)).logprobs.tolist()
    assert logprobs == pytest.approx([oracle_logprob(model, rollout) for rollout in ROLLOUTS], rel=1e-5)
    whole = [oracle_logprob(model, rollout, temperature=2.0) for rollout in ROLLOUTS]
    assert logprobs != pytest.approx(whole, rel=1e-2)


@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_gradients_are_taken_at_the_sampling_temperature(temperature):
    sketcher = sketcher_of(tiny_llama(), temperature=temperature)
    gradients = sketch_batch(sketcher, as_batch(ROLLOUTS))
    expected, at_one = (oracle_sketches(sketcher, ROLLOUTS, t) for t in (temperature, 1.0))
    assert relative_error(gradients.sketches, expected) < TOLERANCE
    assert relative_error(gradients.sketches, at_one) > 0.1
    # Not a mere 1/temperature: the softmax itself moves.
    assert relative_error(gradients.sketches, at_one / temperature) > 0.01
    logprobs = [oracle_logprob(sketcher.model, rollout, temperature) for rollout in ROLLOUTS]
    assert gradients.logprobs.tolist() == pytest.approx(logprobs, rel=1e-5)


def test_along_a_direction_is_the_exact_inner_product():
    sketcher = sketcher_of(tiny_llama())
    direction = exact(sketcher, random_rollouts(3, seed=1))
    directional = sketch_batch(sketcher, as_batch(ROLLOUTS), along=direction).directional
    gradients = [exact(sketcher, [rollout]) for rollout in ROLLOUTS]
    for row, gradient in enumerate(gradients):
        scale = norm(gradient) * norm(direction)
        assert abs(directional[row] - dot(gradient, direction)) < TOLERANCE * scale
        assert abs(directional[row] - dot(gradients[row - 1], direction)) > 10 * TOLERANCE * scale


def test_without_a_direction_there_are_no_derivatives():
    assert sketch_batch(sketcher_of(tiny_llama()), as_batch(ROLLOUTS)).directional is None


def test_onto_adds_the_exact_weighted_gradient():
    sketcher = sketcher_of(tiny_llama())
    weights = [rollout.weight for rollout in ROLLOUTS]
    total = zero_direction(sketcher.space, torch.device("cpu"))
    for half in (slice(2), slice(2, 4)):
        sketch_batch(sketcher, as_batch(ROLLOUTS[half]), onto=total, weights=torch.tensor(weights[half]))
    expected = exact(sketcher, ROLLOUTS, weights)
    assert norm({name: total[name] - expected[name] for name in total}) < TOLERANCE * norm(expected)
    assert cosine(total, exact(sketcher, ROLLOUTS)) < 0.9  # unweighted


def test_sketching_leaves_the_model_as_it_was():
    model = tiny_llama()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    sketch_batch(sketcher_of(model), as_batch(ROLLOUTS))
    assert not hooked(model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(parameter, before[name])


def test_hooks_are_removed_after_an_error():
    model = tiny_llama()
    sketcher = sketcher_of(model)
    seen = []

    def fail(_module, _args):
        seen.append(hooked(model))
        raise RuntimeError("stopped half way")

    handle = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stopped half way"):
        sketch_batch(sketcher, as_batch(ROLLOUTS))
    handle.remove()
    assert seen == [True]  # hooks were there
    assert not hooked(model)


def hooked(model):
    return any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_sketches_in_bfloat16_point_where_those_in_float32_do():
    sketches = sketch_batch(sketcher_of(tiny_llama()), as_batch(ROLLOUTS)).sketches
    rounded = sketch_batch(sketcher_of(tiny_llama().bfloat16()), as_batch(ROLLOUTS)).sketches
    assert rounded.dtype == torch.float32
    assert cosine_similarity(sketches, rounded).min() > 0.99
    assert cosine_similarity(sketches, rounded.roll(1, 0)).max() < 0.9
    assert relative_error(rounded, sketches) > 1e-4  # bfloat16 was really used


def test_another_seed_gives_another_sketch_of_the_same_length():
    model = tiny_llama()
    one, other = (sketch_batch(sketcher_of(model, seed=s), as_batch(ROLLOUTS)).sketches for s in (0, 1))
    assert cosine_similarity(one, other).abs().max() < 0.3
    assert torch.allclose(one.norm(dim=1), other.norm(dim=1), rtol=0.3)
