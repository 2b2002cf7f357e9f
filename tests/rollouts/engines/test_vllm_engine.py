"""vLLM's process: what it is told, what is kept of its answers, and that nothing of it stays behind."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gradcurate.config import Settings
from gradcurate.errors import EngineError
from gradcurate.policies.checkpoints import Checkpoint
from gradcurate.rollouts.engines.journal import Journal
from gradcurate.rollouts.engines.vllm_engine import WORKER, VllmEngine
from gradcurate.rollouts.rollout import Completion, PromptedProblem

PROBLEMS = [PromptedProblem(f"p{number}", "pool", (10 + number, 7)) for number in range(6)]
BATCHES = [tuple(PROBLEMS[:4]), tuple(PROBLEMS[4:])]
SETTINGS = {
    "pool": "pool",
    "validation": "validation",
    "model": "model",
    "run": "run",
    "engine": "vllm",
    "dtype": "float32",
    "rollouts": 3,
    "max_tokens": 5,
}
EOS = 1


@pytest.fixture(autouse=True)
def fake_vllm(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_vllm"))


@pytest.fixture
def engine_of(tmp_path):
    engines = []

    def make(checkpoint=None, **changes):
        settings = Settings(**{**SETTINGS, **changes})
        checkpoint = checkpoint or Checkpoint("model", tmp_path / "model")
        journal = Journal(tmp_path / "rollouts", "digest")
        engine = VllmEngine(settings, checkpoint, frozenset({EOS}), 20, journal, tmp_path / "vllm.log")
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def expected(logprobs=(-0.5, -0.5)):
    return {
        batch: [Completion((p.prompt_token_ids[0], EOS), logprobs, "stop") for p in batch for _ in range(3)]
        for batch in BATCHES
    }


def journal_of(tmp_path):
    return Journal(tmp_path / "rollouts", "digest")


def options(tmp_path):
    return ast.literal_eval(re.search(r"options (\{.*\})", (tmp_path / "vllm.log").read_text()).group(1))


def is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process_id}/stat").read_text().split(") ")[1][0] != "Z"


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_process_serves_all_batches_and_both_splits(engine_of, tmp_path):
    engine = engine_of()
    assert dict(engine.sample(BATCHES[:1])) | dict(engine.sample(BATCHES[1:])) == expected()
    assert (tmp_path / "vllm.log").read_text().count("options") == 1


def test_it_is_told_the_policy_and_how_to_sample(engine_of, tmp_path):
    list(engine_of(vllm_options='{"enforce_eager": true, "max_model_len": 64}').sample(BATCHES))
    found = options(tmp_path)
    seed = found.pop("seed")
    assert found == {
        "model": str(tmp_path / "model"),
        "tokenizer": str(tmp_path / "model"),
        "dtype": "float32",
        "max_model_len": 64,
        "logprobs_mode": "raw_logprobs",
        "enforce_eager": True,
    }
    list(engine_of(seed=1).sample([tuple(reversed(BATCHES[0]))]))
    other = options(tmp_path)
    assert other["seed"] != seed
    assert other["max_model_len"] == 25


@pytest.mark.parametrize(
    ("changes", "mode", "known"),
    [
        ({}, "raw_logprobs", True),
        ({"top_p": 0.9}, "raw_logprobs", True),
        ({"temperature": 0.5}, "processed_logprobs", True),
        ({"temperature": 0.5, "top_p": 0.9}, "processed_logprobs", False),
    ],
    ids=str,
)
def test_log_probabilities_are_those_of_the_scaled_and_uncut_distribution(
    engine_of, tmp_path, changes, mode, known
):
    found = dict(engine_of(**changes).sample(BATCHES))
    assert found == expected((-0.5, -0.5) if known else None)
    assert options(tmp_path)["logprobs_mode"] == mode


@pytest.mark.parametrize(("rank", "allowed"), [(4, 8), (8, 8), (48, 64), (1000, 1000)])
def test_an_adapter_is_put_on_its_base(engine_of, tmp_path, rank, allowed):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": rank}))
    found = dict(engine_of(Checkpoint("adapter", tmp_path / "base", adapter)).sample(BATCHES))
    assert {completion.token_ids for batch in found.values() for completion in batch} == {(99,)}
    told = options(tmp_path)
    assert (told["model"], told["enable_lora"], told["max_lora_rank"]) == (
        str(tmp_path / "base"),
        True,
        allowed,
    )


def test_one_that_dies_costs_nothing_that_it_has_answered(engine_of, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "die 7")
    engine = engine_of()
    with pytest.raises(EngineError) as caught:
        dict(engine.sample(BATCHES))
    log = tmp_path / "vllm.log"
    assert str(caught.value) == (
        "vLLM must sample to the end; its process ended: RuntimeError: out of memory; 7 of the 18 rollouts "
        f"asked of it are kept. {log} has all it printed; --vllm-options changes how it runs, "
        "--vllm-python where. The same command then goes on from there."
    )
    first = options(tmp_path)["seed"]
    assert (PROBLEMS[0], 0) not in journal_of(tmp_path).read(BATCHES[0])  # the first is owed still
    monkeypatch.setenv("FAKE_VLLM", "die 11")  # 11 are left: it is not asked for more
    assert dict(engine_of().sample(BATCHES)) == expected()
    assert options(tmp_path)["seed"] != first  # the numbers of those that are kept


def test_one_that_does_not_start_says_why(engine_of, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "refuse")
    with pytest.raises(EngineError) as caught:
        list(engine_of().sample(BATCHES))
    assert caught.value.expected == "vLLM must start"
    assert caught.value.received.startswith("its process ended: ValueError: no such dtype; 0 of the 18")


def test_a_python_without_vllm_says_so(engine_of, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(EngineError, match="ModuleNotFoundError: No module named 'vllm'"):
        list(engine_of(vllm_python=sys.executable).sample(BATCHES))


def test_a_closed_engine_leaves_no_process_behind(engine_of, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "sleep")
    engine, log = engine_of(), tmp_path / "vllm.log"

    def sample():
        with pytest.raises(EngineError):
            dict(engine.sample(BATCHES))

    waiting = threading.Thread(target=sample)
    waiting.start()
    wait_until(lambda: log.exists() and "child " in log.read_text())
    child = int(re.search(r"child (\d+)", log.read_text()).group(1))
    assert is_running(child)
    engine.close()
    waiting.join()
    assert not is_running(child)


def test_it_ends_with_the_process_that_started_it(tmp_path):
    """Killed, a parent can end nobody: the worker sees its stdin end."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import json, os, subprocess, sys, time\n"
        "reading, writing = os.pipe()\n"
        f"command = [sys.executable, {str(WORKER)!r}, str(writing), json.dumps({{'engine': {{}}}})]\n"
        "worker = subprocess.Popen(command,\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[writing], start_new_session=True)\n"
        "assert os.read(reading, 3) == b'{}\\n'\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not is_running(worker))
    parent.stdout.close()
