"""What a person reads before the first run."""

import itertools
import subprocess
import sys

import pytest

from gradcurate.config import flag, setting_fields

VERBS = (
    "score",
    "rollout",
    "reward",
    "sketch",
    "rescore",
    "select",
    "summary",
    "inspect",
    "audit",
    "verify",
)
HEAVY = ("torch", "transformers", "pyarrow", "numpy", "pydantic", "datasets")


def words(text):
    """Return a help page as one line, without frames."""
    return " ".join(text.replace("│", " ").split())


def test_the_first_page_lists_every_verb_and_the_exit_codes(invoke):
    page = words(invoke("--help").stdout)
    assert all(f" {verb} " in page for verb in VERBS)
    assert "2 an input cannot be used; 3 no learning signal in the rollouts; 4 another process" in page


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_reads_and_writes_and_shows_an_example(invoke, verb):
    result = invoke(verb, "--help")
    page = words(result.stdout)
    assert result.exit_code == 0
    reads, writes, example = (
        page.index(word) for word in (" Reads ", " Writes ", f" Example: gradcurate {verb} ")
    )
    assert reads < writes < example
    assert "--json" in page
    assert "Exit codes: 0 done; 1 failed; " in page


@pytest.mark.parametrize("verb", ["score", "rollout", "sketch"])
def test_a_verb_with_settings_has_a_flag_for_each_with_its_help(invoke, verb):
    page = words(invoke(verb, "--help").stdout)
    for field in setting_fields():
        assert page.count(f" {flag(field.name)} <") == 1
        assert field.metadata["help"] in page


def test_a_paragraph_of_help_is_broken_by_the_page_alone(invoke):
    lines = invoke("score", "--help").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if "Reads the pool" in line)
    paragraph = lines[start : lines.index(" " * 80, start)]
    assert len(paragraph) > 1
    for line, following in itertools.pairwise(paragraph):
        assert len(line.rstrip()) + 1 + len(following.split()[0]) > 79


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["score", "--poool", "x"], ["select", "--top-k", "many"]]
)
def test_unknown_flags_and_values_are_usage_errors(invoke, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert arguments[-1] in result.stderr or arguments[1] in result.stderr


def test_the_command_line_starts_without_heavy_packages():
    code = f"import sys, gradcurate_cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"
    control = code.replace("gradcurate_cli.app", "gradcurate_cli.app, gradcurate.results")
    loaded = subprocess.run([sys.executable, "-c", control], capture_output=True, text=True, check=True)
    assert "pyarrow" in loaded.stdout
