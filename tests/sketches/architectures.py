"""Tiny random models of other architectures than the Llama of tiny_models."""

import importlib

import torch

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
SPECIFIC = {
    "Gemma": {"head_dim": 8},
    "Gemma3": {"head_dim": 8},
    "Mixtral": {"num_local_experts": 2},
    "Qwen3": {"head_dim": 8},
    "Qwen3Moe": {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8},
}
MODULES = {"Gemma3": "gemma3", "Qwen3Moe": "qwen3_moe", "GPTNeoX": "gpt_neox"}


def tiny_model(architecture, seed=0, **shape):
    """A random causal language model, by the prefix of its class name."""
    package = importlib.import_module(
        f"transformers.models.{MODULES.get(architecture, architecture.lower())}"
    )
    config_name = "Gemma3TextConfig" if architecture == "Gemma3" else f"{architecture}Config"
    torch.manual_seed(seed)
    config = getattr(package, config_name)(**{**SHAPE, **SPECIFIC.get(architecture, {}), **shape})
    return getattr(package, f"{architecture}ForCausalLM")(config).eval()


def tiny_gpt2(width=16):
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"vocab_size": 101, "n_embd": width, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=1)).eval()


def tiny_opt(width=16):
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"vocab_size": 101, "hidden_size": width, "ffn_dim": width, "num_hidden_layers": 1}
    config = OPTConfig(**shape, num_attention_heads=2, word_embed_proj_dim=width, max_position_embeddings=64)
    return OPTForCausalLM(config).eval()
