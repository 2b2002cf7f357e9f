"""Settings: the same names everywhere, checked before anything runs."""

import json
import re
import subprocess
import sys
import typing
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcurate.config import Settings, Stage, base_type, flag, load_settings, setting_fields
from gradcurate.errors import SettingsError

REQUIRED = {"pool": "p.jsonl", "validation": "v.jsonl", "model": "m", "run": "r"}
NAMES = [field.name for field in setting_fields()]
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
OVERRIDES = {
    "temperature": POSITIVE,
    "reward_timeout_seconds": POSITIVE,
    "server_timeout_seconds": POSITIVE,
    "mismatch_limit": st.floats(min_value=0, allow_infinity=False),
    "importance_cap": st.floats(min_value=0, allow_infinity=False),
    "sketch_dim": st.integers(32, 2**20).map(lambda half: 2 * half),
}
# All else is drawn from the declared types and bounds.
ANY_SETTINGS = st.builds(Settings, **{name: OVERRIDES.get(name, ...) for name in NAMES})


def message(given, config=None):
    with pytest.raises(SettingsError) as caught:
        load_settings(given, config)
    return str(caught.value)


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "gradcurate.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_defaults():
    settings = load_settings(REQUIRED)
    assert settings == Settings(**REQUIRED)
    assert (settings.rollouts, settings.advantage, settings.reward) == (8, "grpo", "math")


def test_keywords_win_over_the_file_and_the_file_over_defaults(toml):
    path = toml('pool = "file"\nrollouts = 3\nseed = 7\n')
    settings = load_settings({**REQUIRED, "rollouts": 5}, path)
    assert (settings.pool, settings.rollouts, settings.seed, settings.top_p) == ("p.jsonl", 5, 7, 1.0)
    assert load_settings({**REQUIRED, "rollouts": 5}).seed == 0
    assert load_settings({**REQUIRED, "rollouts": 5}, str(path)) == settings


@given(ANY_SETTINGS, ANY_SETTINGS)
def test_settings_survive_json(one, other):
    restored = load_settings(json.loads(json.dumps(asdict(one))))
    assert restored == one
    assert (restored == other) == (one == other)


def test_settings_are_frozen():
    settings = load_settings(REQUIRED)
    with pytest.raises(FrozenInstanceError):
        settings.seed = 1


def test_a_path_is_as_good_as_its_text():
    assert load_settings({**REQUIRED, "run": Path("runs/1")}) == load_settings({**REQUIRED, "run": "runs/1"})


def test_every_setting_belongs_to_a_stage_or_none():
    stages = typing.get_args(Stage)
    assert {field.metadata["stage"] for field in setting_fields()} == {*stages, None}
    assert all(
        field.metadata["help"].endswith(".") or "..." in field.metadata["help"] for field in setting_fields()
    )
    settings = load_settings(REQUIRED)
    of_stages = [settings.of_stage(stage) for stage in stages]
    of_none = [field.name for field in setting_fields() if field.metadata["stage"] is None]
    assert sorted([*of_none, *(name for part in of_stages for name in part)]) == sorted(NAMES)


def test_of_stage_has_the_values():
    settings = replace(load_settings(REQUIRED), kernel="outer", seed=3)
    assert settings.of_stage("sketches") == {
        "sketch_dim": 4096,
        "sketch_seed": 0,
        "kernel": "outer",
        "batch_tokens": 1024,
        "scorer": "sketch",
        "granularity": "rollout",
        "modules": None,
        "precondition": "none",
        "importance_cap": 2.0,
        "advantage": "grpo",
        "token_weight": "response-mean",
        "validation_signal": "policy",
        "gold_column": None,
    }
    assert settings.of_stage("rollouts")["seed"] == 3


def test_names_of_flags_and_types_of_values():
    assert flag("batch_tokens") == "--batch-tokens"
    assert (base_type("rollouts"), base_type("id_column"), base_type("top_p")) == (int, str, float)
    assert typing.get_args(base_type("kernel")) == ("fft", "outer")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rollouts", 1, "--rollouts must be an integer, at least 2; 1 was given"),
        ("rollouts", "many", "--rollouts must be an integer, at least 2; 'many' was given"),
        ("rollouts", 2.5, "--rollouts must be an integer, at least 2; 2.5 was given"),
        ("rollouts", None, "--rollouts must be an integer, at least 2; None was given"),
        ("seed", -1, f"--seed must be an integer, at least 0 and at most {2**63 - 1}; -1 was given"),
        ("seed", 2**63, f"--seed must be an integer, at least 0 and at most {2**63 - 1}; {2**63} was given"),
        ("sketch_dim", 65, "--sketch-dim must be an integer, at least 64 and a multiple of 2; 65 was given"),
        ("sketch_dim", 62, "--sketch-dim must be an integer, at least 64 and a multiple of 2; 62 was given"),
        ("temperature", 0, "--temperature must be a number, above 0; 0 was given"),
        ("temperature", float("inf"), "--temperature must be a number, above 0; inf was given"),
        ("temperature", float("nan"), "--temperature must be a number, above 0; nan was given"),
        ("top_p", 1.5, "--top-p must be a number, above 0 and at most 1; 1.5 was given"),
        ("top_p", "high", "--top-p must be a number, above 0 and at most 1; 'high' was given"),
        ("kernel", "mean", "--kernel must be one of fft, outer; 'mean' was given"),
        ("dtype", 16, "--dtype must be one of auto, float32, bfloat16; 16 was given"),
        ("pool", ["a"], "--pool must be text; ['a'] was given"),
        ("id_column", 3, "--id-column must be text; 3 was given"),
    ],
)
def test_a_value_out_of_range_is_told_what_is_in_range(name, value, expected):
    assert (
        message({**REQUIRED, name: value}) == f"{expected}. Change {flag(name)}, or {name} in the TOML file."
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("rollouts", 2), ("seed", 2**63 - 1), ("sketch_dim", 64), ("top_p", 1), ("id_column", "")],
)
def test_the_ends_of_a_range_are_in_it(name, value):
    assert getattr(load_settings({**REQUIRED, name: value}), name) == value


def test_a_misspelt_setting_gets_a_suggestion(toml):
    expected = "Settings must be known ones; 'rolouts' is not. Did you mean 'rollouts'?"
    assert message({**REQUIRED, "rolouts": 4}) == expected
    assert message(REQUIRED, toml("rolouts = 4\n")) == expected


def test_a_setting_like_no_other_gets_the_list():
    expected = f"Settings must be known ones; 'xyzzy' is not. Choose from: {', '.join(NAMES)}."
    assert message({**REQUIRED, "xyzzy": 4}) == expected


@pytest.mark.parametrize("missing", [["pool"], ["validation", "run"], ["pool", "validation", "model", "run"]])
def test_what_is_missing_is_named(missing):
    given = {name: value for name, value in REQUIRED.items() if name not in missing}
    assert message(given) == (
        f"{', '.join(flag(name) for name in missing)} must be given; "
        f"neither the command nor a TOML file gives a value. Add {flag(missing[0])} VALUE."
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("seed = \n", "Invalid value (at line 1, column 8)"),
        ("seed = 1\nseed = 2\n", "Cannot overwrite a value"),
        (b'pool = "\xff"\n', "'utf-8' codec can't decode byte 0xff in position 8"),
    ],
)
def test_a_file_that_is_not_toml(toml, content, reason):
    path = toml(content)
    pattern = (
        rf"--config must name a valid TOML file; {re.escape(f'{path}: {reason}')}[^\n]*\. Correct that file\."
    )
    assert re.fullmatch(pattern, message(REQUIRED, path))


def test_a_file_that_cannot_be_read(tmp_path):
    for path, reason in ((tmp_path / "no.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        assert message(REQUIRED, path) == (
            f"--config must name a readable TOML file; {path}: {reason}. Check the path."
        )


def test_help_and_errors_need_no_heavy_package():
    program = """
import importlib, sys
heavy = {"torch", "transformers", "datasets", "pyarrow", "pydantic", "numpy"}
for module in ("gradcurate.config", "gradcurate", "gradcurate_cli.app", "gradcurate.store.tables"):
    importlib.import_module(module)
    print(module, sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["gradcurate.config []", "gradcurate []", "gradcurate_cli.app []"]
    assert "pyarrow" in lines[3]  # the check can see a heavy package


def test_reward_weights_are_one_number_for_each_reward():
    two = {**REQUIRED, "reward": "a.py:f, exact"}
    assert load_settings(two).reward_names == ("a.py:f", "exact")
    assert load_settings(two).reward_weight_numbers == ()
    assert load_settings({**two, "reward_weights": "1, -0.5"}).reward_weight_numbers == (1.0, -0.5)
    for weights in ("1", "1,2,3", "1,x", "1,inf"):
        with pytest.raises(SettingsError) as caught:
            _ = load_settings({**two, "reward_weights": weights}).reward_weight_numbers
        assert caught.value.args == (
            "--reward-weights must be 2 comma-separated numbers, one for each --reward",
            f"{weights!r} was given",
            "Write them as in 1,0.5.",
        )
