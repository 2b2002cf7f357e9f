"""Random models of a few thousand parameters with a character tokenizer, made offline in a second."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<pad>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: number for number, token in enumerate(SPECIAL + letters)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
    )


def tiny_llama(seed: int = 0, **config) -> LlamaForCausalLM:
    """A random Llama; 2 layers of width 32 unless the configuration says otherwise."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    defaults = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "initializer_range": 0.3,  # large enough that two prompts are answered differently
    }
    return LlamaForCausalLM(LlamaConfig(**{**defaults, **config})).eval()


def save_tiny_checkpoint(folder: Path, seed: int = 0, **config) -> Path:
    tiny_llama(seed, **config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
