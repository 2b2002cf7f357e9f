"""`run.json` comes back equal, says what it was made from, and is refused when it is not ours."""

import importlib.metadata
import json
import re
import subprocess

import pytest

from gradcurate.config import load_settings
from gradcurate.errors import RunDirectoryError
from gradcurate.store.manifest import Manifest, read_manifest, write_manifest

SETTINGS = load_settings({"pool": "p", "validation": "v", "model": "ü", "run": "r", "seed": 2**63 - 1})
MANIFEST = Manifest(SETTINGS, "chat", "abc")
FINGERPRINTS = {"problems": {"problems": "1"}, "rollouts": {"seed": 3, "reward_file": None}}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a manifest from a working directory outside every repository, and gives its path."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "run.json", MANIFEST, FINGERPRINTS)
    return tmp_path / "run.json"


def refusal(path):
    with pytest.raises(RunDirectoryError) as caught:
        read_manifest(path)
    return str(caught.value)


def test_it_comes_back_equal(written):
    assert read_manifest(written) == MANIFEST
    write_manifest(written, Manifest(SETTINGS, "text", "abc"), FINGERPRINTS)
    assert read_manifest(written) == Manifest(SETTINGS, "text", "abc")


def test_what_it_says(written):
    content = json.loads(written.read_text())
    assert list(content) == [
        "schema_version",
        "written",
        "settings",
        "prompt_format",
        "policy",
        "fingerprints",
        "versions",
        "git",
    ]
    assert content["fingerprints"] == FINGERPRINTS
    assert content["versions"]["torch"] == importlib.metadata.version("torch")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", content["written"])


def test_the_git_state_is_that_of_the_working_directory(written):
    def state():
        write_manifest(written, MANIFEST, {})
        return json.loads(written.read_text())["git"]

    def git(*arguments):
        who = ("-c", "user.name=n", "-c", "user.email=e@x")
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout

    assert state() is None
    git("init", "--quiet")
    (written.parent / ".gitignore").write_text("run.json\n")
    git("add", ".gitignore")
    assert state() is None
    git("commit", "--quiet", "-m", "one")
    assert state() == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (written.parent / "new").touch()
    assert state() == {"commit": git("rev-parse", "HEAD").strip(), "dirty": True}


def test_a_directory_without_one_names_the_verb(tmp_path):
    assert refusal(tmp_path / "run.json") == (
        f"{tmp_path / 'run.json'} must exist; that stage has not finished in this run directory. "
        "Run `gradcurate score` first."
    )


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda text: text[: len(text) // 2], "JSONDecodeError: "),
        (lambda text: "", "JSONDecodeError: Expecting value: line 1 column 1 (char 0). "),
        (lambda text: "[]", "TypeError: "),
        (lambda text: "{}", "KeyError: 'schema_version'. "),
        (lambda text: text.replace('"policy":', '"other":'), "KeyError: 'policy'. "),
        (
            lambda text: text.replace('version": 1', 'version": 2'),
            "ValueError: schema version 2 instead of 1. ",
        ),
        (
            lambda text: text.replace('"pool"', '"lake"'),
            "SettingsError: Settings must be known ones; 'lake' is ",
        ),
        (lambda text: text.replace('"grpo"', '"ppo"'), "SettingsError: --advantage must be one of grpo, "),
    ],
)
def test_a_file_that_is_not_ours_is_refused(written, edit, reason):
    written.write_text(edit(written.read_text()))
    found = refusal(written)
    assert found.startswith(
        f"{written} must be one that this version of gradcurate wrote; it is not: {reason}"
    )
    assert found.endswith(". Choose another --run, or run `gradcurate score` into a new one.")
    assert "\n" not in found


def test_bytes_that_are_no_text_are_refused(written):
    written.write_bytes(b"\xff\xfe")
    assert "it is not: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff" in refusal(written)
