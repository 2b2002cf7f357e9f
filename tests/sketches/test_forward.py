"""Derivatives by forward passes alone: those of the gradients, and neither norm nor sketch."""

import functools
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from gradcurate.errors import NumericalError, OutOfMemoryError, RunDirectoryError
from gradcurate.sketches import forward, output_layer
from gradcurate.sketches.direction import dot, norm, zero_direction
from gradcurate.sketches.forward import Differences, difference_batch
from gradcurate.sketches.halving import Budget
from gradcurate.sketches.live_rollouts import LiveGroup
from gradcurate.sketches.live_sketches import difference_rows, sketch_rows
from gradcurate.sketches.preconditioner import factor_moments, precondition_direction
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, preconditioned, sketch_batch
from gradcurate.sketches.step import find_step, settle_differences
from gradcurate.sketches.twins import build_twins, move_twins
from sketches.architectures import tiny_gpt2, tiny_model, tiny_opt
from sketches.reference import as_batch, exact, random_rollouts, relative_error
from tiny_models import tiny_llama

# transformers 5 warns of a name that PEFT still uses.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TOLERANCE = 2e-3  # central differences in float32
ROUNDING = 3e-3  # of the same difference, summed otherwise
TEMPERATURE = 0.8
ROLLOUTS = random_rollouts(6)
VALIDATION = random_rollouts(6, seed=5, split="validation")


def tiny_lora():
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(tiny_llama(), config)


SPACES = {
    "Llama": (tiny_llama, ()),
    "Gemma3": (functools.partial(tiny_model, "Gemma3"), ()),
    "Phi3": (functools.partial(tiny_model, "Phi3"), ()),
    "GPT-2": (tiny_gpt2, ()),
    "Mixtral": (functools.partial(tiny_model, "Mixtral"), ()),
    "Qwen3Moe": (functools.partial(tiny_model, "Qwen3Moe"), ()),
    "LoRA": (tiny_lora, ()),
    "a few modules": (tiny_llama, ("q_proj", "layers.1.mlp.*")),
    "output layer": (tiny_llama, ("lm_head",)),
    "tied output layer": (functools.partial(tiny_llama, tie_word_embeddings=True), ("lm_head", "q_proj")),
}


def sketcher_of(model, modules=()):
    return build_sketcher(model, Projection(256), temperature=TEMPERATURE, modules=modules)


def direction_of(sketcher, rollouts=VALIDATION):
    direction = zero_direction(sketcher.space, torch.device("cpu"))
    weights = torch.tensor([rollout.weight for rollout in rollouts])
    sketch_batch(sketcher, as_batch(rollouts), onto=direction, weights=weights)
    return direction


def settled(sketcher, direction, folder):
    return settle_differences(sketcher, direction, ROLLOUTS, folder / "step.json")


@pytest.fixture(scope="module")
def sketcher():
    return sketcher_of(tiny_llama())


@pytest.fixture(scope="module")
def direction(sketcher):
    return direction_of(sketcher)


@pytest.fixture(scope="module")
def differences(sketcher, direction, tmp_path_factory):
    return settled(sketcher, direction, tmp_path_factory.mktemp("step"))


# Which derivatives they are


@pytest.mark.parametrize(("model", "modules"), SPACES.values(), ids=SPACES)
def test_derivatives_are_those_of_autograd_and_of_the_gradient_pass(model, modules, tmp_path):
    sketcher = sketcher_of(model(), modules)
    direction, others = direction_of(sketcher), direction_of(sketcher, random_rollouts(6, seed=9))
    found = difference_rows(settled(sketcher, direction, tmp_path), ROLLOUTS)
    by_autograd = [exact(sketcher, [rollout]) for rollout in ROLLOUTS]
    true, other = (
        torch.tensor([dot(gradient, along) for gradient in by_autograd], dtype=torch.float64)
        for along in (direction, others)
    )
    along = sketch_rows(sketcher, ROLLOUTS, along=direction)
    assert relative_error(found.directional, true) < TOLERANCE
    assert relative_error(found.directional, along.directional) < TOLERANCE
    assert relative_error(found.directional, other) > 0.1
    assert found.logprobs.tolist() == pytest.approx(along.logprobs.tolist(), rel=1e-3)
    assert found.token_logprobs.tolist() == pytest.approx(along.token_logprobs.tolist(), rel=1e-2, abs=1e-3)
    assert found.sketches is None


def test_a_step_too_long_or_too_short_gives_other_derivatives(sketcher, direction, differences):
    true = sketch_rows(sketcher, ROLLOUTS, along=direction).directional
    for factor in (4**4, 4**-6):
        twins, step = build_twins(sketcher.model, sketcher.space), factor * differences.step
        move_twins(twins, sketcher.model, sketcher.space, direction, step)
        found = difference_rows(Differences(sketcher, twins, step), ROLLOUTS).directional
        assert relative_error(found, true) > 10 * TOLERANCE


def test_adam_s_geometry(tmp_path):
    plain = sketcher_of(tiny_llama())
    moments = {m.parameter: torch.rand(m.shape) * 1e-4 for m in plain.space.members}
    scales = factor_moments(moments, plain.space, torch.device("cpu"))
    direction = direction_of(plain)
    dual = precondition_direction(direction, scales)
    sketcher = preconditioned(plain, scales)
    found = difference_rows(settled(sketcher, dual, tmp_path), ROLLOUTS).directional
    true = sketch_rows(sketcher, ROLLOUTS, along=dual).directional
    assert relative_error(found, true) < TOLERANCE
    assert relative_error(found, sketch_rows(plain, ROLLOUTS, along=direction).directional) > 0.1


def test_tokens_of_stale_rollouts_are_weighed_as_in_the_gradient(sketcher, direction, differences):
    torch.manual_seed(0)
    lengths = [r.response_tokens for r in ROLLOUTS]
    own = sketch_rows(sketcher, ROLLOUTS).token_logprobs.split(lengths)
    stale = [
        replace(r, sampling_logprobs=(mine + torch.randn(len(mine))).tolist())
        for r, mine in zip(ROLLOUTS, own, strict=True)
    ]
    capped = replace(sketcher, importance_cap=1.5)
    found = difference_rows(replace(differences, sketcher=capped), stale).directional
    assert relative_error(found, sketch_rows(capped, stale, along=direction).directional) < TOLERANCE
    assert relative_error(found, difference_rows(differences, stale).directional) > 0.01


def test_a_problem_s_row_is_the_weighted_sum_of_its_rollouts(sketcher, direction, differences):
    prompt = tuple(range(1, 25))
    group = [replace(r, prompt=prompt, problem_id="p", rollout=n) for n, r in enumerate(ROLLOUTS[:3])]
    together = difference_rows(differences, [LiveGroup(tuple(group))]).directional
    apart = difference_rows(differences, group).directional
    weights = torch.tensor([r.weight for r in group], dtype=torch.float64)
    scale = (weights * apart).norm()
    assert abs(together[0] - weights @ apart) < ROUNDING * scale
    assert abs(together[0] - apart.sum()) > 0.1 * scale


def test_logits_that_are_changed_after_the_output_layer(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 101, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = Gemma2Config(
        **shape, **heads, final_logit_softcapping=1.0, initializer_range=0.3, pad_token_id=0
    )
    sketcher = sketcher_of(Gemma2ForCausalLM(config).eval())
    assert not sketcher.chunked_head
    direction = direction_of(sketcher)
    found = difference_rows(settled(sketcher, direction, tmp_path), ROLLOUTS).directional
    assert relative_error(found, sketch_rows(sketcher, ROLLOUTS, along=direction).directional) < TOLERANCE


# What does not matter


def test_batch_mates_padding_and_order_play_no_part(differences):
    longer = random_rollouts(1, seed=9, longest=60)
    alone = torch.cat([difference_batch(differences, as_batch([r])).directional for r in ROLLOUTS])
    together = difference_batch(differences, as_batch([*ROLLOUTS, *longer])).directional[:-1]
    backwards = difference_batch(differences, as_batch(ROLLOUTS[::-1])).directional.flip(0)
    assert relative_error(together, alone) < ROUNDING
    assert relative_error(backwards, alone) < ROUNDING
    assert relative_error(together.roll(1, 0), alone) > 0.1


def test_the_output_layer_by_chunks(differences, monkeypatch):
    whole = difference_rows(differences, ROLLOUTS).directional
    head = differences.twins.ahead.get_output_embeddings()
    monkeypatch.setitem(output_layer.LOGITS_PER_CHUNK, "cpu", 7 * head.weight.shape[0])
    assert relative_error(difference_rows(differences, ROLLOUTS).directional, whole) < ROUNDING


# Copies


def test_twins_share_what_is_not_moved_and_leave_the_policy_as_it_was(direction):
    model = tiny_llama()
    sketcher = sketcher_of(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    twins = build_twins(model, sketcher.space)
    move_twins(twins, model, sketcher.space, direction, 0.1)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    own = {member.parameter for member in sketcher.space.members}
    for name, weight in model.named_parameters():
        ahead, behind = (twin.get_parameter(name) for twin in (twins.ahead, twins.behind))
        assert (ahead is behind is weight) == (name not in own)
        assert name not in own or torch.allclose((ahead + behind) / 2, weight, atol=1e-6)


def test_tied_embeddings_are_not_moved_with_the_output_layer():
    model = tiny_llama(tie_word_embeddings=True)
    sketcher = sketcher_of(model, ("lm_head",))
    twins = build_twins(model, sketcher.space)
    move_twins(twins, model, sketcher.space, direction_of(sketcher), 1.0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert twins.ahead.model.embed_tokens.weight is model.model.embed_tokens.weight
    assert not torch.equal(twins.ahead.lm_head.weight, model.lm_head.weight)


def test_a_policy_in_bfloat16_is_differentiated_in_float32(tmp_path):
    half = tiny_llama().bfloat16()
    rounded = sketcher_of(tiny_llama().bfloat16().float())
    direction = direction_of(rounded)
    differences = settled(sketcher_of(half), direction, tmp_path)
    assert {p.dtype for p in differences.twins.ahead.parameters()} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    found = difference_rows(differences, ROLLOUTS).directional
    assert relative_error(found, sketch_rows(rounded, ROLLOUTS, along=direction).directional) < TOLERANCE


def test_copies_that_do_not_fit_are_an_error(sketcher, monkeypatch):
    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("gradcurate.sketches.twins.copy.deepcopy", fail)
    with pytest.raises(OutOfMemoryError) as caught:
        build_twins(sketcher.model, sketcher.space)
    assert str(caught.value) == (
        "Two copies of the gradient space in float32 must fit in memory beside the policy; they do not: "
        "CUDA out of memory. Use --scorer sketch, fewer --modules, or a device with more memory."
    )


# Memory


class SmallMemory:
    """Runs out of memory, as a GPU would, on batches of more tokens than it can hold."""

    def __init__(self, tokens):
        self.tokens, self.sizes = tokens, []

    def __call__(self, _module, args, kwargs):
        size = kwargs["input_ids"].numel()
        self.sizes.append(size)
        if size > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def small(differences):
    """Differences of a model that the test may hook."""
    own = replace(differences, sketcher=replace(differences.sketcher, budget=Budget()))
    handles = []

    def limited(tokens):
        memory = SmallMemory(tokens)
        handles.append(own.twins.behind.register_forward_pre_hook(memory, with_kwargs=True))
        return own, memory

    yield limited
    for handle in handles:
        handle.remove()


def test_a_batch_that_does_not_fit_is_cut(small, differences):
    whole = difference_rows(differences, ROLLOUTS).directional
    longest = max(rollout.tokens for rollout in ROLLOUTS) - 1
    limited, memory = small(longest)
    assert relative_error(difference_rows(limited, ROLLOUTS).directional, whole) < ROUNDING
    tried = len(memory.sizes)
    assert memory.sizes[0] == len(ROLLOUTS) * longest
    difference_rows(limited, ROLLOUTS)
    assert max(memory.sizes[tried:]) <= longest


def test_a_single_rollout_that_does_not_fit_is_an_error(small):
    limited, _memory = small(0)
    with pytest.raises(OutOfMemoryError) as caught:
        difference_rows(limited, ROLLOUTS[:1])
    assert str(caught.value) == (
        f"A rollout of {ROLLOUTS[0].tokens - 1} tokens must fit in memory with its activations; it does not: "
        "CUDA out of memory. Use --scorer sketch with --gradient-checkpointing, or a device with more memory."
    )


# The step


@pytest.mark.parametrize("best", [1e-9, 1e-6, 3e-5, 0.02])
def test_the_step_is_found_on_either_side_of_the_first(best):
    """Errors of a third derivative and of rounding, which are equal at the best step."""
    third, noise = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).double()

    def estimate(step):
        rounding = noise.roll(hash(step) % 8) * best / step
        return torch.ones(8).double() + 1e-4 * (third * (step / best) ** 2 + rounding)

    found = find_step(estimate)
    assert best / 8 < found.relative_step < best * 8
    assert found.disagreement < 0.01


def test_no_step_is_better_than_a_wrong_one():
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(NumericalError) as caught:
        find_step(lambda _step: torch.randn(8, generator=generator))
    words = "Derivatives of two steps must agree to 10% for --scorer forward; at best they differ by "
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("Use --scorer sketch.")


def test_derivatives_of_nothing_are_refused():
    with pytest.raises(NumericalError) as caught:
        find_step(lambda _step: torch.zeros(8))
    assert str(caught.value) == (
        "Derivatives of two steps must agree to 10% for --scorer forward; at best they differ by nan%, with "
        "a step of 1e-05 of the weights' length. Use --scorer sketch."
    )


def test_the_recorded_step_is_taken(sketcher, direction, tmp_path):
    first = settled(sketcher, direction, tmp_path)
    record = json.loads((tmp_path / "step.json").read_text())
    assert record.keys() == {"relative_step", "disagreement"}
    assert record["disagreement"] < TOLERANCE
    assert settled(sketcher, direction, tmp_path).step == first.step
    (tmp_path / "step.json").write_text(json.dumps({**record, "relative_step": 1e-3}))
    again = settled(sketcher, direction, tmp_path)
    length = sum(p.double().square().sum() for p in weights(sketcher)).sqrt().item()
    assert again.step == pytest.approx(1e-3 * length / norm(direction))


def weights(sketcher):
    return [sketcher.model.get_parameter(member.parameter) for member in sketcher.space.members]


def test_a_damaged_record_is_named(sketcher, direction, tmp_path):
    (tmp_path / "step.json").write_text("{")
    with pytest.raises(RunDirectoryError) as caught:
        settled(sketcher, direction, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/step.json must hold the step of --scorer forward; it does not: Expecting property name "
        "enclosed in double quotes: line 1 column 2 (char 1). Remove it, and run the same command again: the "
        "same step is found."
    )


# Mixtures of experts


def test_experts_are_chosen_once(monkeypatch):
    """With a step that changes choices, differences of two choices would be of two functions."""
    sketcher = sketcher_of(tiny_model("Qwen3Moe", num_experts=4))
    direction, rollouts = direction_of(sketcher), random_rollouts(60, seed=1)
    true = sketch_rows(sketcher, rollouts, along=direction).directional
    twins = build_twins(sketcher.model, sketcher.space)
    step = 6.4e-4 * sum(p.double().square().sum() for p in weights(sketcher)).sqrt().item() / norm(direction)
    move_twins(twins, sketcher.model, sketcher.space, direction, step)
    once = difference_rows(Differences(sketcher, twins, step), rollouts).directional
    monkeypatch.setattr(forward, "RepeatingChoices", lambda _chosen: nullcontext())
    twice = difference_rows(Differences(sketcher, twins, step), rollouts).directional
    assert relative_error(twice, true) > 1
    assert relative_error(once, true) < 0.2


def test_relu_has_kinks_and_is_differentiated_between_them(tmp_path):
    sketcher = sketcher_of(tiny_opt())
    direction = direction_of(sketcher)
    found = difference_rows(settled(sketcher, direction, tmp_path), ROLLOUTS).directional
    assert relative_error(found, sketch_rows(sketcher, ROLLOUTS, along=direction).directional) < 0.02
