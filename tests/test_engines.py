"""A run whose rollouts come from elsewhere: settings, interruptions, and the checks that follow."""

import json
import shutil
import threading
from pathlib import Path

import pytest

import gradcurate
from fake_openai_server import FakeServer, refusal, serving, text_completion
from gradcurate import pipeline
from gradcurate.config import load_settings
from gradcurate.errors import EngineError, NumericalError, PolicyError, RunDirectoryError, SettingsError
from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.policies.policy import load_policy
from gradcurate.results import read_rollouts
from gradcurate.rewards import RewardPool
from gradcurate.rollouts.engines.transformers_engine import TransformersEngine
from gradcurate.rollouts.rollout import PromptedProblem
from gradcurate.store.manifest import read_manifest
from gradcurate.store.run_directory import RunDirectory
from tiny_models import tiny_tokenizer

RUN = RunDirectory(Path("runs/1"))


@pytest.fixture(scope="session")
def tiny_policy(checkpoint):
    return load_policy(find_checkpoint(str(checkpoint)), tiny_tokenizer(), "float32", "cpu")


@pytest.fixture
def answer(tiny_policy, workspace):
    """A server's answers: the policy's own, each request with its own random numbers."""
    asked, one_at_a_time = [], threading.Lock()

    def respond(body):
        with one_at_a_time:
            return sampled(body)

    def sampled(body):
        asked.append(body)
        problem = PromptedProblem(f"request {len(asked)}", "pool", tuple(body["prompt"]))
        settings = load_settings({**workspace, "rollouts": 2, "max_tokens": body["max_tokens"]})
        ((_, (completion, _)),) = TransformersEngine(lambda: tiny_policy, settings).sample([(problem,)])
        return text_completion(
            token_ids=completion.token_ids,
            logprobs={"token_logprobs": completion.logprobs},
            finish_reason=completion.finish_reason,
        )

    return respond


def from_server(workspace, server, **changes):
    return {**workspace, "engine": "openai", "server": server.address, "server_retries": 0} | changes


def test_a_run_from_a_server_is_scored_and_checked(workspace, answer):
    with serving(FakeServer(answer)) as server:
        summary = gradcurate.score(**from_server(workspace, server))
    assert summary.best
    assert summary.checks.logprob_kl < 1e-6
    assert len(read_rollouts(RUN)) == 17 * 4
    assert not [path for path in RUN.rollouts.iterdir() if path.name.startswith(".")]


def test_a_server_of_another_policy_is_found_out(workspace, answer):
    def other(body):
        status, content = answer(body)
        told = content["choices"][0]["logprobs"]
        told["token_logprobs"] = [logprob - 1.5 for logprob in told["token_logprobs"]]
        return status, content

    with serving(FakeServer(other)) as server, pytest.raises(NumericalError, match="must agree"):
        gradcurate.score(**from_server(workspace, server))


def test_a_run_goes_on_where_its_server_went_down(workspace, answer):
    def failing(body):
        return answer(body) if len(server.asked) <= 40 else refusal(503, "shutting down")

    with serving(FakeServer(failing)) as server, pytest.raises(EngineError) as caught:
        gradcurate.score(**from_server(workspace, server, server_concurrency=2))
    assert caught.value.exit_code == 5
    done = len(read_rollouts(RUN))
    assert 0 < done < 39
    journals = [file.read_text() for file in RUN.rollouts.glob(".*.jsonl")]
    kept = [json.loads(line) for text in journals for line in text.split("\n") if line]
    assert 39 - 2 <= done + len(kept) <= 39  # the other one's answer may come too late
    before = {(row["problem_id"], row["rollout"]): row["token_ids"] for row in kept}
    with serving(FakeServer(answer)) as server:
        gradcurate.score(**from_server(workspace, server))
        assert len(server.asked) == 1 + 17 * 4 - done - len(kept)
    after = {
        (row["problem_id"], row["rollout"]): row["completion_token_ids"]
        for row in read_rollouts(RUN).to_pylist()
    }
    assert before.items() <= after.items()


def test_another_address_resumes_and_another_engine_does_not(workspace, answer):
    with serving(FakeServer(answer)) as server:
        settings = from_server(workspace, server)
        gradcurate.rollout(**settings)
    gradcurate.score(**{**settings, "server": "http://localhost:1/v1"})
    with pytest.raises(RunDirectoryError, match="engine 'openai' -> 'transformers'"):
        gradcurate.score(**workspace)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"engine": "openai"},
            "--engine openai needs the address of a --server; none was given. Add --server URL.",
        ),
        (
            {"server": "http://localhost:1"},
            "--server is asked for rollouts with --engine openai only; the engine is transformers. "
            "Add --engine openai, or leave --server out.",
        ),
        (
            {"engine": "openai", "server": "localhost:8000"},
            "A server's address begins with http:// or https://; 'localhost:8000' was given. "
            "Write it as in http://localhost:8000/v1.",
        ),
        (
            {"engine": "vllm"},
            "--engine vllm needs a Python that has vLLM; this Python has no package vllm. "
            "Run `pip install 'gradcurate[vllm]'`, or point --vllm-python to that of another environment.",
        ),
        (
            {"engine": "vllm", "vllm_python": "nowhere/python"},
            "--engine vllm needs a Python that has vLLM; nowhere/python is no program. "
            "Run `pip install 'gradcurate[vllm]'`, or point --vllm-python to that of another environment.",
        ),
        (
            {"engine": "vllm", "vllm_options": "enforce_eager"},
            "--vllm-options must be a JSON object; 'enforce_eager' was given. "
            """Write it as in '{"tensor_parallel_size": 2}'.""",
        ),
        (
            {"engine": "vllm", "vllm_options": '{"seed": 1}'},
            "The seed of vLLM is gradcurate's own: one that goes on must not repeat numbers; "
            "--vllm-options has a seed. Use --seed.",
        ),
        (
            {"engine": "openai", "server": "http://localhost:80a0/v1"},
            "A server's address begins with http:// or https://; 'http://localhost:80a0/v1' was given. "
            "Write it as in http://localhost:8000/v1.",
        ),
        (
            {"engine": "openai", "server": "http://[::1/v1"},
            "A server's address begins with http:// or https://; 'http://[::1/v1' was given. "
            "Write it as in http://localhost:8000/v1.",
        ),
        (
            {"vllm_options": "{}"},
            "--vllm-python and --vllm-options are for --engine vllm only; the engine is transformers. "
            "Add --engine vllm, or leave them out.",
        ),
    ],
    ids=str,
)
def test_an_engine_that_cannot_be_is_refused_before_anything_is_written(workspace, changes, message):
    with pytest.raises(SettingsError) as caught:
        gradcurate.score(**{**workspace, **changes})
    assert str(caught.value) == message
    assert not Path("runs").exists()


def test_a_server_whose_address_has_no_path_gets_the_usual_one(workspace, answer):
    with serving(FakeServer(answer)) as server:
        address = server.address.removesuffix("/v1")
        gradcurate.rollout(**{**from_server(workspace, server), "server": address})
    assert len(read_rollouts(RUN)) == 17 * 4


def test_what_a_server_answered_is_kept_where_a_reward_stops_the_run(workspace, answer, monkeypatch):
    """And no server is asked on, once nobody wants its answers."""

    def stop(_self, _requests):
        raise EngineError("A judge must answer", "it is down", "Start it.")

    with serving(FakeServer(answer)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(RewardPool, "score", stop)
            with pytest.raises(EngineError, match="A judge must answer"):
                gradcurate.score(**from_server(workspace, server))
        asked = len(server.asked)
        kept = sum(text.count("token_ids") for text in map(Path.read_text, RUN.rollouts.glob(".*.jsonl")))
        assert not list(RUN.rollouts.glob("*.parquet"))
        gradcurate.score(**from_server(workspace, server))
        assert len(server.asked) == asked + 1 + 17 * 4 - kept


def test_where_another_process_samples_the_policy_is_loaded_for_gradients_alone(
    workspace, answer, monkeypatch
):
    """The first, in main memory, finds out whether it fits; then the GPU is the sampler's."""
    loads = []

    def load(checkpoint, tokenizer, dtype, device, adapter):
        loads.append(device)
        return load_policy(checkpoint, tokenizer, dtype, device, adapter)

    monkeypatch.setattr(pipeline, "load_policy", load)
    with serving(FakeServer(answer)) as server:
        settings = from_server(workspace, server, device="auto")
        gradcurate.rollout(**settings)
        assert loads == ["cpu"]
        gradcurate.sketch(**settings)
    assert loads == ["cpu", "auto"]


def test_a_policy_that_does_not_fit_asks_no_server(workspace, answer, checkpoint):
    shutil.copytree(checkpoint, "broken")
    Path("broken/model.safetensors").write_bytes(b"not weights")
    with serving(FakeServer(answer)) as server, pytest.raises(PolicyError):
        gradcurate.score(**from_server(workspace, server, model="broken"))
    assert not server.asked
    assert not Path("runs").exists()


def test_the_arithmetic_of_the_machine_is_recorded(workspace):
    gradcurate.rollout(**workspace)
    assert read_manifest(RUN.manifest).settings.dtype == "float32"
    gradcurate.score(**workspace, dtype="float32")
    with pytest.raises(RunDirectoryError, match="dtype 'float32' -> 'bfloat16'"):
        gradcurate.score(**workspace, dtype="bfloat16")
