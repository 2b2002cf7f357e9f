"""A policy loads as one frozen model with its tokenizer, or says in one line why it cannot."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gradcurate.errors import PolicyError
from gradcurate.policies import policy
from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.policies.policy import (
    context_tokens,
    load_policy,
    load_tokenizer,
    resolve_device,
    resolve_dtype,
)
from tiny_models import save_tiny_checkpoint

REMEDY = "Give the folder that `save_pretrained` wrote, with its tokenizer."


def load(folder, dtype="float32", device="cpu"):
    found = find_checkpoint(str(folder))
    return load_policy(found, load_tokenizer(found), dtype, device)


def refusal(action, *arguments):
    with pytest.raises(PolicyError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_model_is_frozen_and_in_evaluation_mode(checkpoint, dtype, expected):
    model = load(checkpoint, dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    stored = load_file(checkpoint / "model.safetensors")
    assert torch.equal(model.model.norm.weight, stored["model.norm.weight"].to(expected))


@pytest.mark.parametrize(("configured", "stops"), [(1, {1}), ([1, 5], {1, 5}), ([5], {1, 5}), (None, {1})])
def test_a_response_ends_at_any_token_of_model_or_tokenizer(copy_of, configured, stops):
    folder = copy_of()
    edit_json(folder / "generation_config.json", eos_token_id=configured)
    assert load(folder).stop_token_ids == stops


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_header(folder):
    (folder / "model.safetensors").write_bytes(b"not weights")


def no_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not weights")


def other_shape(folder):
    edit_json(folder / "config.json", intermediate_size=48)


def no_causal_model(folder):
    edit_json(folder / "config.json", model_type="vit", architectures=["ViTModel"])


@pytest.mark.filterwarnings("ignore:You are using a model of type")
@pytest.mark.parametrize(
    ("damage", "part", "reason"),
    [
        (truncated, "model", "SafetensorError: Error while deserializing header: "),
        (no_header, "model", "SafetensorError: Error while deserializing header: "),
        (no_pickle, "model", "UnpicklingError: Weights only load failed"),
        (other_shape, "model", "RuntimeError: "),
        (no_causal_model, "model", "ValueError: Unrecognized configuration class"),
    ],
)
def test_weights_that_do_not_load(copy_of, damage, part, reason):
    folder = copy_of()
    load(folder)
    damage(folder)
    found = refusal(load, folder)
    assert found.startswith(f"The {part} of {folder} must load with transformers; {reason}")
    assert found.endswith(f". {REMEDY}")


@pytest.mark.parametrize(
    ("renamed", "count", "first"),
    [(["lm_head.weight"], 1, "lm_head.weight"), (None, 21, "lm_head.weight")],
)
def test_missing_weights_are_never_made_up(copy_of, renamed, count, first):
    """transformers fills them with random numbers; a wrapper's prefix makes that all of them."""
    folder = copy_of()
    weights = load_file(folder / "model.safetensors")
    wrapped = {f"_wrapped.{n}" if renamed is None or n in renamed else n: w for n, w in weights.items()}
    save_file(wrapped, folder / "model.safetensors", {"format": "pt"})
    assert refusal(load, folder) == (
        f"{folder} must hold every weight of its model; {count} are missing, {first} among them. "
        "Give the folder that `save_pretrained` wrote; sharded trainer state must be merged first."
    )


def test_tied_weights_are_not_missing(tmp_path):
    folder = save_tiny_checkpoint(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = load(folder).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}'])
def test_a_tokenizer_that_does_not_load(copy_of, content):
    folder = copy_of()
    if content is None:
        for file in folder.glob("tokenizer*"):
            file.unlink()
    else:
        (folder / "tokenizer.json").write_text(content)
    found = refusal(load_tokenizer, find_checkpoint(str(folder)))
    assert found.startswith(f"The tokenizer of {folder} must load with transformers; ")
    assert found.endswith(f". {REMEDY}")


def test_the_context_is_what_the_configuration_says(copy_of):
    folder = copy_of()
    assert context_tokens(find_checkpoint(str(folder))) == 128
    edit_json(folder / "config.json", max_position_embeddings=64)
    assert context_tokens(find_checkpoint(str(folder))) == 64


def test_the_context_under_its_older_name_and_within_a_part(copy_of):
    folder = copy_of()
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_positions": 99}')
    assert context_tokens(find_checkpoint(str(folder))) == 99
    text = {"model_type": "llama", "max_position_embeddings": 77}
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": text}))
    assert context_tokens(find_checkpoint(str(folder))) == 77
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    assert context_tokens(find_checkpoint(str(folder))) is None


def test_a_configuration_that_is_not_json(copy_of):
    folder = copy_of()
    (folder / "config.json").write_text("{")
    found = refusal(context_tokens, find_checkpoint(str(folder)))
    assert found.startswith(f"The configuration of {folder} must load with transformers; ")


def test_code_of_a_checkpoint_is_neither_run_nor_asked_about(copy_of, tmp_path, monkeypatch):
    folder = copy_of()
    code = (
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import PreTrainedConfig\nclass Mine(PreTrainedConfig):\n    model_type = 'mine'\n"
    )
    (folder / "mine.py").write_text(code)
    edit_json(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Mine"})
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked whether to run code"))
    assert "contains custom code" in refusal(context_tokens, find_checkpoint(str(folder)))
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()  # the trap was live


@pytest.mark.parametrize("device", ["cuda:99", "abacus", ""])
def test_a_device_that_does_not_exist(checkpoint, device):
    found = refusal(load, checkpoint, "float32", device)
    assert found.startswith(f"--device must name a device of this machine; {device!r}: ")
    assert found.endswith(". Use auto, cpu, cuda or cuda:N.")


def test_the_device_is_checked_before_the_weights(copy_of):
    folder = copy_of()
    no_header(folder)
    assert refusal(load, folder, "float32", "abacus").startswith("--device must name")


def test_devices_that_exist():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_auto_arithmetic_is_bfloat16_where_a_gpu_has_it(monkeypatch):
    assert resolve_dtype("auto", "cpu") == "float32"
    assert resolve_dtype("bfloat16", "cpu") == "bfloat16"
    monkeypatch.setattr(policy, "resolve_device", lambda _: torch.device("cuda"))
    for has_it, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert resolve_dtype("auto", "cuda") == dtype
        assert resolve_dtype("float32", "cuda") == "float32"
