"""Which modules make up a gradient, and the architectures whose gradient would be silently smaller."""

import copy

import pytest
import torch

from gradcurate.errors import PolicyError
from gradcurate.sketches.modules import find_gradient_space
from sketches.architectures import tiny_gpt2, tiny_model

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
    assert first.members == tuple(f"model.layers.0.{name}" for name in names)
    assert first.name == "+".join(first.members)


def test_shapes_are_those_of_the_weights():
    model = tiny_model("Qwen2")
    for fused in find_gradient_space(model).modules:
        weights = [model.get_submodule(name).weight for name in fused.members]
        assert [(w.shape[0], w.shape[1]) for w in weights] == [
            (features, fused.in_features) for features in fused.member_features
        ]
        assert fused.out_features == sum(fused.member_features)


@pytest.mark.parametrize("architecture", FUSED)
def test_embeddings_and_head_are_left_out_and_nothing_else(architecture):
    model = tiny_model(architecture)
    named = {name.removesuffix(".weight") for name, p in model.named_parameters() if p.ndim == 2}
    left_out = named - set(find_gradient_space(model).linear_names)
    assert left_out <= {"model.embed_tokens", "lm_head"}
    assert "model.embed_tokens" in left_out


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


REFUSED = {
    "GPT2": "transformer.h.0.attn.c_attn.weight, transformer.h.0.attn.c_proj.weight, "
    "transformer.h.0.mlp.c_fc.weight and 5 more",
    "Mixtral": "model.layers.0.mlp.gate.weight, model.layers.0.mlp.experts.gate_up_proj, "
    "model.layers.0.mlp.experts.down_proj and 3 more",
    "Qwen3Moe": "model.layers.0.mlp.experts.gate_up_proj, model.layers.0.mlp.experts.down_proj, "
    "model.layers.0.mlp.gate.weight and 3 more",
}


@pytest.mark.parametrize(("architecture", "parameters"), REFUSED.items(), ids=REFUSED)
def test_a_matrix_outside_linear_modules_is_refused_by_name(architecture, parameters):
    model = tiny_gpt2() if architecture == "GPT2" else tiny_model(architecture)
    with pytest.raises(PolicyError) as raised:
        find_gradient_space(model)
    assert str(raised.value) == (
        "Every matrix of the transformer blocks must belong to a linear module that runs; "
        f"{type(model).__name__} also has {parameters}. "
        "A gradient without them would be silently smaller; this architecture is not supported yet."
    )


def test_a_linear_module_that_never_runs_is_refused():
    model = copy.deepcopy(tiny_model("Llama"))
    model.model.layers[0].spare = torch.nn.Linear(16, 16, bias=False)
    with pytest.raises(PolicyError, match=r"LlamaForCausalLM also has model\.layers\.0\.spare\.weight\. "):
        find_gradient_space(model)


def test_a_linear_module_that_reads_rows_without_their_rollout_is_refused():
    """OPT flattens batch and tokens before its first feed-forward module."""
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"vocab_size": 101, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1}
    model = OPTForCausalLM(OPTConfig(**shape, num_attention_heads=2, word_embed_proj_dim=16)).eval()
    with pytest.raises(PolicyError) as raised:
        find_gradient_space(model)
    assert str(raised.value) == (
        "Every linear module must read one row a token; model.decoder.layers.0.fc1 of OPTForCausalLM reads a "
        "tensor of shape (2, 16). Which rollout its rows belong to cannot be told; this architecture is not "
        "supported yet."
    )
