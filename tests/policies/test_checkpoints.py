"""Every name of a model leads to a folder or to one clear line; a checkpoint is known by its content."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from gradcurate.errors import PolicyError
from gradcurate.policies.checkpoints import Checkpoint, find_checkpoint
from gradcurate.policies.digests import file_digest, files_digest

KINDS = "--model must be a checkpoint folder, a .gguf file, a Hugging Face id or smollm2-135m"


def refusal(name):
    with pytest.raises(PolicyError) as caught:
        find_checkpoint(str(name))
    return str(caught.value)


def fingerprint(folder):
    return find_checkpoint(str(folder)).fingerprint()


@pytest.mark.parametrize("name", ["./no", "no/such/folder", "/no", "../no"])
def test_a_path_that_is_not_there_is_never_looked_up_on_the_hub(name):
    assert refusal(name) == f"{KINDS}; {name} is not there. Check the path."


def test_a_file_of_another_kind(checkpoint):
    path = checkpoint / "model.safetensors"
    assert refusal(path) == f"{KINDS}; {path} is a file of another kind. Check the path."


@pytest.mark.parametrize(
    ("removed", "lacks"),
    [
        (["config.json"], "no config.json"),
        (["model.safetensors"], "no weights"),
        (["config.json", "model.safetensors"], "no config.json and no weights"),
    ],
)
def test_a_folder_without_a_model(copy_of, removed, lacks):
    folder = copy_of()
    assert find_checkpoint(str(folder)) == Checkpoint(str(folder), folder)
    for name in removed:
        (folder / name).unlink()
    assert refusal(folder) == (
        f"A checkpoint folder holds config.json and weights (*.safetensors or *.bin); {folder} has {lacks}. "
        "Give the folder that `save_pretrained` wrote; sharded trainer state must be merged first."
    )


def test_weights_of_older_checkpoints_count(copy_of):
    folder = copy_of()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert find_checkpoint(str(folder)).folder == folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nobody/nothing", "Cannot find an appropriate cached snapshot folder"),
        ("nothing", "Cannot find an appropriate cached snapshot folder"),
        ("no such name", "Repo id must use alphanumeric chars"),
    ],
)
def test_a_hub_id_offline_is_one_line(name, reason):
    found = refusal(name)
    assert found.startswith(f"{KINDS}; {name} is no folder here, and the hub says: {reason}")
    assert found.endswith(". Check the name, the network, or `hf auth login` for a gated model.")
    assert "\n" not in found
    assert ".." not in found


def test_a_folder_wins_over_a_hub_id_and_over_the_demo_model(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nobody/nothing", "smollm2-135m"):
        shutil.copytree(checkpoint, tmp_path / name)
        assert find_checkpoint(name).folder.resolve() == tmp_path / name


def test_a_fingerprint_is_of_content_and_not_of_place_or_time(checkpoint, copy_of):
    folder = copy_of("elsewhere")
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    (folder / "README.md").write_text("notes")
    assert fingerprint(folder) == fingerprint(checkpoint)


def change_one_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 2**-12
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_tokenizer(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"a": ', '"ä": '))


def change_template(folder):
    with (folder / "chat_template.jinja").open("a") as file:
        file.write(" ")


def change_configuration(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 0.5}))


def rename_weights(folder):
    (folder / "model.safetensors").rename(folder / "other.safetensors")


@pytest.mark.parametrize(
    "change", [change_one_weight, change_tokenizer, change_template, change_configuration, rename_weights]
)
def test_a_fingerprint_changes_with_what_the_policy_is(checkpoint, copy_of, change):
    folder = copy_of()
    change(folder)
    assert fingerprint(folder) != fingerprint(checkpoint)


def test_digests_depend_on_names_and_bytes_alone(tmp_path):
    one, other = tmp_path / "a" / "x", tmp_path / "b" / "y"
    for path, text in ((one, "1"), (other, "2")):
        path.parent.mkdir()
        path.write_text(text)
    assert file_digest(one) != file_digest(other)
    assert files_digest([one, other]) == files_digest([other, one])
    assert files_digest([one, other]) != files_digest([one])
    assert files_digest([]) != files_digest([one])


@pytest.mark.parametrize("link", [True, False], ids=["link into a pruned cache", "folder"])
def test_weights_that_are_no_file(copy_of, link):
    folder = copy_of()
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(folder / "blob") if link else weights.mkdir()
    assert f"{folder} has no weights. " in refusal(folder)
