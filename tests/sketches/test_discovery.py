"""Which modules make up a gradient, and that nothing of it is missed."""

import pytest
import torch

from gradcurate.errors import PolicyError
from gradcurate.sketches.discovery import find_gradient_space
from sketches.architectures import tiny_gpt2, tiny_model, tiny_opt

SEPARATE = ["self_attn.q_proj+k_proj+v_proj", "self_attn.o_proj", "mlp.gate_proj+up_proj", "mlp.down_proj"]
FUSED = {
    **dict.fromkeys(["Llama", "Qwen2", "Qwen3", "Gemma", "Gemma3", "Mistral"], SEPARATE),
    "Phi3": ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"],
}


def tail(name, layer):
    return name.removeprefix(f"model.layers.{layer}.")


@pytest.mark.parametrize(("architecture", "expected"), FUSED.items(), ids=FUSED)
def test_modules_that_read_one_tensor_are_one(architecture, expected):
    modules = find_gradient_space(tiny_model(architecture)).modules
    assert [tail(m.name, 0) for m in modules[: len(expected)]] == expected
    assert [tail(m.name, 1) for m in modules[len(expected) :]] == expected


def test_modules_of_different_parents_are_fused_under_their_full_names():
    """Phi's attention and MLP run side by side on one normalised input."""
    first = find_gradient_space(tiny_model("Phi")).modules[0]
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")
    assert [member.module for member in first.members] == [f"model.layers.0.{name}" for name in names]
    assert first.name == "+".join(member.module for member in first.members)


def test_shapes_are_those_of_the_weights():
    model = tiny_model("Qwen2")
    for fused in find_gradient_space(model).modules:
        weights = [model.get_parameter(member.parameter) for member in fused.members]
        assert [(w.shape[0], w.shape[1]) for w in weights] == [
            (features, fused.in_features) for features in fused.member_features
        ]
        assert fused.out_features == sum(fused.member_features)


@pytest.mark.parametrize("architecture", FUSED)
def test_embeddings_and_head_are_left_out_and_nothing_else(architecture):
    model = tiny_model(architecture)
    named = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    left_out = named - {member.parameter for member in find_gradient_space(model).members}
    assert left_out <= {"model.embed_tokens.weight", "lm_head.weight"}
    assert "model.embed_tokens.weight" in left_out


def test_the_space_is_the_architecture_and_not_the_weights():
    spaces = [find_gradient_space(tiny_model("Llama", seed)) for seed in (0, 1)]
    assert spaces[0] == spaces[1]
    assert spaces[0].digest == spaces[1].digest
    assert find_gradient_space(tiny_model("Llama").bfloat16()).digest == spaces[0].digest
    assert find_gradient_space(tiny_model("Phi3")).digest != spaces[0].digest


def test_looking_leaves_no_hooks():
    model = tiny_model("Llama")
    find_gradient_space(model)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


FORMED = {
    "Mixtral": ["mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    "Qwen3Moe": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"],
}


@pytest.mark.parametrize(("architecture", "expected"), FORMED.items(), ids=FORMED)
def test_fused_experts_and_their_router_are_formed_by_autograd(architecture, expected):
    space = find_gradient_space(tiny_model(architecture))
    assert space.by_autograd
    formed = [fused.name for fused in space.modules if not fused.hooked]
    assert [tail(name, 0) for name in formed[:3]] == expected
    assert len(formed) == 6
    hooked = [fused.name for fused in space.modules if fused.hooked]
    assert [tail(name, 0) for name in hooked[:2]] == SEPARATE[:2]


def test_weights_stored_as_inputs_by_outputs_are_turned():
    space = find_gradient_space(tiny_gpt2())
    first = space.modules[0]
    assert not space.by_autograd
    assert (first.name, first.in_features, first.out_features) == ("transformer.h.0.attn.c_attn", 16, 48)
    assert first.members[0].shape == (16, 48)


def test_modules_that_read_rows_without_their_rollout_are_formed_by_autograd():
    """OPT flattens batch and tokens before its feed-forward modules."""
    formed = [fused.name for fused in find_gradient_space(tiny_opt()).modules if not fused.hooked]
    assert formed == ["model.decoder.layers.0.fc1.weight", "model.decoder.layers.0.fc2.weight"]


def shared_between_layers():
    model = tiny_model("Llama")
    model.model.layers[1].mlp.down_proj.weight = model.model.layers[0].mlp.down_proj.weight
    return model


def used_twice():
    model = tiny_model("Llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    return model


@pytest.mark.parametrize("change", [shared_between_layers, used_twice])
def test_a_weight_that_is_used_twice_is_formed_by_autograd(change):
    formed = [fused.name for fused in find_gradient_space(change()).modules if not fused.hooked]
    assert "model.layers.0.mlp.down_proj.weight" in formed
    assert not find_gradient_space(tiny_model("Llama")).by_autograd


def test_a_weight_that_its_module_does_not_use_alone_is_formed_by_autograd():
    """As DoRA does, which also takes the norm of its matrices."""
    model = tiny_model("Llama")
    down = model.model.layers[0].mlp.down_proj
    down.register_forward_hook(lambda module, _args, output: output * module.weight.norm())
    formed = [fused.name for fused in find_gradient_space(model).modules if not fused.hooked]
    assert formed == ["model.layers.0.mlp.down_proj.weight"]


def test_a_matrix_that_plays_no_part_is_refused_by_name():
    model = tiny_model("Llama")
    model.model.layers[0].spare = torch.nn.Linear(16, 16, bias=False)
    with pytest.raises(PolicyError) as raised:
        find_gradient_space(model)
    assert str(raised.value) == (
        "Every matrix of the gradient space must play a part in the forward pass; "
        "LlamaForCausalLM also has model.layers.0.spare.weight. "
        "A gradient without them would be silently smaller; choose others with --modules."
    )
    assert find_gradient_space(model, ["mlp.*"]).modules  # without it


PATTERNS = {
    "q_proj": ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"],
    "layers.1.mlp.*": ["model.layers.1.mlp.gate_proj+up_proj", "model.layers.1.mlp.down_proj"],
    "lm_head": ["lm_head"],
}


@pytest.mark.parametrize(("pattern", "expected"), PATTERNS.items(), ids=PATTERNS)
def test_a_pattern_narrows_the_space(pattern, expected):
    assert [fused.name for fused in find_gradient_space(tiny_model("Llama"), [pattern]).modules] == expected


def test_patterns_add_up():
    modules = find_gradient_space(tiny_model("Llama"), ["layers.0.self_attn.o_proj", "lm_head"]).modules
    assert [fused.name for fused in modules] == ["model.layers.0.self_attn.o_proj", "lm_head"]


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(PolicyError) as raised:
        find_gradient_space(tiny_model("Llama"), ["q_proj", "attention.*"])
    assert str(raised.value) == (
        "Every pattern of --modules must match a module of the policy; 'attention.*' matches none of 15. "
        "There are model.layers.0.self_attn.q_proj, ..., lm_head."
    )


def test_looking_leaves_the_model_frozen_and_without_gradients():
    model = tiny_model("Mixtral").requires_grad_(True)
    find_gradient_space(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
