"""The commands that the README and the examples print are run as they stand."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gradcurate
from gradcurate_cli.app import app
from tiny_models import save_tiny_checkpoint

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "arithmetic"


def commands(document: Path) -> list[list[str]]:
    """The gradcurate commands of a document's console blocks, continued lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ "))[1:] for line in lines if line.startswith("$ gradcurate ")]


def invoke(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"gradcurate {shlex.join(arguments)}: {result.output}"


@pytest.fixture
def any_direction_is_believed(monkeypatch):
    """A random model's validation direction is noise, and would select nothing."""
    monkeypatch.setattr("gradcurate.scores.confidence.LEAST_COSINE", -1.0)


@pytest.fixture
def tiny_model_in_place_of_the_demo_model(tmp_path, monkeypatch, any_direction_is_believed):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "arithmetic")
    save_tiny_checkpoint(tmp_path / "smollm2-135m")
    (tmp_path / "parity.py").write_text(
        "def parity(data_source, solution_str, ground_truth, extra_info):\n"
        "    return float(len(solution_str) % 2)\n"
    )
    config = tmp_path / "examples" / "arithmetic" / "gradcurate.toml"
    settings = config.read_text().replace('reward = "numeric"', 'reward = "parity.py:parity"')
    config.write_text(settings)
    return tmp_path


def test_the_commands_of_the_example_run(tiny_model_in_place_of_the_demo_model):
    documented = commands(EXAMPLE / "README.md")
    assert [command[0] for command in documented] == ["score", "summary", "select", "verify"]
    for command in documented:
        invoke(command)
    assert list(Path("runs/arithmetic/exports/trl").glob("train-*.parquet"))


def test_the_demo_target_runs_the_commands_of_the_example():
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(EXAMPLE / "README.md"):
        if command[0] != "verify":
            documented = shlex.join(["gradcurate", *command]).replace("runs/arithmetic", "$(RUN)")
            assert f"$(BIN)/{documented}" in makefile


def test_the_example_is_what_its_script_generates(tmp_path, capsys):
    shutil.copy(EXAMPLE / "generate.py", tmp_path)
    runpy.run_path(str(tmp_path / "generate.py"), run_name="__main__")
    for name in ("pool.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (EXAMPLE / name).read_bytes()
    assert "120 problems" in capsys.readouterr().out


def test_the_example_marks_its_wrong_answers_and_no_other(capsys):
    rows = [json.loads(line) for line in (EXAMPLE / "pool.jsonl").read_text().splitlines()]
    for row in rows:
        expression = re.findall(r"What is (.*)\?", row["prompt"])[-1]
        if not expression.startswith("the gcd"):
            right = eval(expression)  # digits and operators of our own data
            assert (str(right) != row["answer"]) is row["corrupted"]
    assert sum(row["corrupted"] for row in rows) == 30


def test_the_commands_of_the_readme_run(workspace, any_direction_is_believed):
    save_tiny_checkpoint(Path("checkpoints/step-100"), max_position_embeddings=1024)
    Path("my_rewards.py").write_text(
        Path("rewards.py").read_text().replace("def parity", "def compute_score")
    )
    documented = commands(ROOT / "README.md")
    verbs = {"score", "select", "summary", "inspect", "rescore", "audit", "reward", "verify"}
    verbs |= {"rollout", "sketch"}
    assert {command[0] for command in documented} == verbs
    for command in documented:
        if not any("examples/arithmetic" in word or "runs/arithmetic" in word for word in command):
            invoke([_known_problem(word) for word in command])


def test_the_python_of_the_readme_runs(workspace, any_direction_is_believed):
    save_tiny_checkpoint(Path("checkpoints/step-100"), max_position_embeddings=1024)
    Path("my_rewards.py").write_text(
        Path("rewards.py").read_text().replace("def parity", "def compute_score")
    )
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names: dict = {"gradcurate": gradcurate}
    exec(block, names)
    assert names["report"].selected == 5


def _known_problem(word: str) -> str:
    """Put the best problem of the run where the README has an id of its own run."""
    if re.fullmatch(r"[0-9a-f]{8}", word):
        return gradcurate.summary("runs/step-100").best[0].problem_id[:8]
    return word
