"""Presets are defaults of trainers: they give way to whatever the user says."""

import typing

import pytest

from gradcurate.config import base_type, load_settings, setting_fields
from gradcurate.errors import SettingsError
from gradcurate.presets import PRESETS

REQUIRED = {"pool": "p.jsonl", "validation": "v.jsonl", "model": "m", "run": "r"}


def test_every_preset_has_a_name_and_loads():
    assert set(PRESETS) == set(typing.get_args(base_type("preset")))
    known = {field.name for field in setting_fields()}
    for name, values in PRESETS.items():
        settings = load_settings({**REQUIRED, "preset": name})
        assert values.keys() <= known
        assert {key: getattr(settings, key) for key in values} == values
        assert settings.preset == name


def test_flags_and_the_file_win_over_a_preset(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('preset = "open-instruct"\ntemperature = 0.7\n')
    settings = load_settings({**REQUIRED, "token_weight": "response-mean"}, file)
    assert (settings.advantage, settings.token_weight, settings.temperature) == (
        "dr_grpo",
        "response-mean",
        0.7,
    )
    assert load_settings(REQUIRED).advantage == "grpo"


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(SettingsError) as raised:
        load_settings({**REQUIRED, "preset": "ppo"})
    assert raised.value.args == (
        "--preset must be one of verl, trl, openrlhf, slime, skyrl, open-instruct, prime-rl, unsloth",
        "'ppo' was given",
        "Change --preset, or preset in the TOML file.",
    )
