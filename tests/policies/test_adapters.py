"""A PEFT adapter is the policy that PEFT itself would run."""

import json
import shutil

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gradcurate.errors import PolicyError
from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.policies.policy import context_tokens, load_policy, load_tokenizer
from gradcurate.sketches.discovery import find_gradient_space
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from sketches.reference import as_batch, exact, random_rollouts, relative_error, sketch_gradient

# transformers 5 warns of a name that PEFT still uses.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers. to .True.:UserWarning"),
]

IDS = torch.arange(10, 30)[None]


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory):
    """The folder of a LoRA adapter with random weights on the tiny model."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), lora).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(adapter, tmp_path):
    """A copy of the adapter to damage, and a function that edits its configuration."""
    folder = shutil.copytree(adapter, tmp_path / "copy")

    def edit(**changes):
        if changes:
            settings = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        return folder

    return edit


def load(folder, use="own"):
    found = find_checkpoint(str(folder))
    return load_policy(found, load_tokenizer(found), "float32", "cpu", use)


def refusal(action, *arguments):
    with pytest.raises(PolicyError) as caught:
        action(*arguments)
    return str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize("use", ["own", "merged"])
def test_it_answers_as_peft_does_and_not_as_its_base(checkpoint, adapter, use):
    base = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    base_logits = base(IDS).logits
    expected = PeftModel.from_pretrained(base, adapter).eval()(IDS).logits
    policy = load(adapter, use)
    torch.testing.assert_close(policy.model(IDS).logits, expected, atol=1e-5, rtol=0)
    assert (expected - base_logits).abs().max() > 0.1


def test_merged_it_is_one_plain_frozen_model(checkpoint, adapter):
    merged, base = load(adapter, "merged").model, load(checkpoint).model
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in base.named_parameters()]
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_its_gradient_space_is_its_own_matrices(adapter):
    model = load(adapter).model
    space = find_gradient_space(model)
    named = {member.parameter for member in space.members}
    assert named == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(named) == 2 * 2 * 2  # two modules in two layers, A and B
    assert not space.by_autograd
    of_merged = find_gradient_space(load(adapter, "merged").model)
    assert "model.layers.0.mlp.gate_proj+up_proj" in {fused.name for fused in of_merged.modules}


ADAPTERS = {
    "LoRA": LoraConfig(
        r=4, target_modules=["q_proj", "k_proj", "up_proj", "gate_proj"], init_lora_weights=False
    ),
    "rank-stabilised": LoraConfig(r=4, use_rslora=True, target_modules="all-linear", init_lora_weights=False),
    "DoRA": LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    "output layer": LoraConfig(r=4, target_modules=["v_proj", "lm_head"], init_lora_weights=False),
    "saved modules": LoraConfig(
        r=4, target_modules=["v_proj"], modules_to_save=["lm_head"], init_lora_weights=False
    ),
    "LoHa": LoHaConfig(r=4, target_modules=["q_proj", "down_proj"], init_weights=False),
}


@pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
def test_its_gradients_are_those_of_autograd(checkpoint, tmp_path, config):
    torch.manual_seed(1)
    get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), config).save_pretrained(tmp_path)
    sketcher = build_sketcher(load(tmp_path).model, Projection(256))
    rollouts = random_rollouts(4)
    found = sketch_batch(sketcher, as_batch(rollouts)).sketches
    for row, rollout in enumerate(rollouts):
        expected = sketch_gradient(sketcher, exact(sketcher, [rollout]))
        assert relative_error(found[row], expected) < 1e-5
        assert relative_error(found[row - 1], expected) > 0.1


def test_matrices_of_one_input_are_one_module(checkpoint, tmp_path):
    lora = ADAPTERS["LoRA"]
    get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), lora).save_pretrained(tmp_path)
    names = [fused.name for fused in find_gradient_space(load(tmp_path).model).modules[:3]]
    start = "base_model.model.model.layers.0.self_attn"
    assert names[0] == f"{start}.q_proj.lora_A.default+{start}.k_proj.lora_A.default"
    assert names[1:] == [f"{start}.q_proj.lora_B.default", f"{start}.k_proj.lora_B.default"]


def test_tokenizer_and_context_are_the_base_s_unless_it_has_its_own(checkpoint, adapter, copy):
    found = find_checkpoint(str(adapter))
    assert (found.folder, found.adapter, found.tokenizer_folder) == (checkpoint, adapter, checkpoint)
    assert context_tokens(found) == 128
    folder = copy()
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, folder)
    assert find_checkpoint(str(folder)).tokenizer_folder == folder


def test_its_fingerprint_is_of_base_and_adapter(checkpoint, adapter, copy, tmp_path):
    of_adapter = find_checkpoint(str(adapter)).fingerprint()
    assert of_adapter != find_checkpoint(str(checkpoint)).fingerprint()
    assert find_checkpoint(str(copy())).fingerprint() == of_adapter
    assert find_checkpoint(str(copy(lora_alpha=1))).fingerprint() != of_adapter


@pytest.mark.parametrize("base", ["/no/base", None, "", "adapter"])
def test_a_base_that_cannot_be_one(adapter, copy, base):
    base = str(adapter) if base == "adapter" else base
    folder = copy(base_model_name_or_path=base)
    reason = {
        "/no/base": "/no/base is not there",
        str(adapter): f"{adapter} is an adapter itself",
    }.get(base, "its adapter_config.json names none")
    assert refusal(find_checkpoint, str(folder)) == (
        f"The adapter {folder} needs the full weights of its base; {reason}. "
        "Correct base_model_name_or_path in its adapter_config.json, or give a merged checkpoint."
    )


def test_an_adapter_that_names_itself(copy):
    folder = copy()
    copy(base_model_name_or_path=str(folder))
    assert f"; {folder} is an adapter itself. " in refusal(find_checkpoint, str(folder))


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_a_configuration_that_is_no_object(copy, text):
    folder = copy()
    (folder / "adapter_config.json").write_text(text)
    assert "; its adapter_config.json names none. " in refusal(find_checkpoint, str(folder))


def test_a_configuration_that_is_not_json(copy):
    folder = copy()
    (folder / "adapter_config.json").write_text("{")
    assert "; its adapter_config.json names none. " in refusal(find_checkpoint, str(folder))


def rename_weights(folder):
    """Gives the adapter's weights the names of another wrapper, which PEFT skips with a warning."""
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {f"wrapped.{name}": value for name, value in weights.items()}, folder / "adapter_model.safetensors"
    )


def truncate_weights(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def remove_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (rename_weights, "UserWarning: Found missing adapter keys while loading the checkpoint: "),
        (truncate_weights, "SafetensorError: Error while deserializing header: "),
        (remove_weights, ""),
    ],
)
def test_an_adapter_whose_weights_do_not_load_is_never_its_base_alone(copy, damage, reason):
    folder = copy()
    load(folder)
    damage(folder)
    found = refusal(load, folder)
    assert found.startswith(f"The adapter of {folder} must load with transformers; {reason}")
    assert "\n" not in found
