"""The same problems through transformers, vLLM and a vLLM server: the same policy answers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model

import gradcurate
from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.policies.policy import load_policy, load_tokenizer
from gradcurate.results import read_problems, read_rollouts, read_scores
from gradcurate.store.run_directory import RunDirectory

EXAMPLE = Path(__file__).parents[2] / "examples" / "arithmetic"
MOST_KL = 1e-5
"""Of float32 log-probabilities a token; another model, prompt or temperature gives 0.01 and more."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory, demo_model):
    """A part of the demo that each engine samples in a minute."""
    folder = tmp_path_factory.mktemp("engines")
    solved_sometimes = (EXAMPLE / "validation.jsonl").read_text().splitlines()
    for name, part in (("pool", slice(6, 18)), ("validation", slice(6))):
        (folder / f"{name}.jsonl").write_text("\n".join(solved_sometimes[part]) + "\n")
    return {
        "pool": str(folder / "pool.jsonl"),
        "validation": str(folder / "validation.jsonl"),
        "model": demo_model,
        "system_prompt": "Reply with the number only.",
        "reward": "numeric",
        "rollouts": 8,
        "max_tokens": 24,
        "sketch_dim": 1024,
        "run": str(folder / "runs"),
    }


def finished(settings, name, **changes):
    merged = {**settings, "run": f"{settings['run']}/{name}", **changes}
    gradcurate.score(**merged)
    return RunDirectory(Path(merged["run"]))


@pytest.fixture(scope="module")
def runs(settings, vllm_python, vllm_server):
    return {
        "transformers": finished(settings, "transformers"),
        "vllm": finished(settings, "vllm", engine="vllm", vllm_python=vllm_python),
        "openai": finished(settings, "openai", engine="openai", server=vllm_server),
    }


ENGINES = pytest.mark.parametrize("engine", ["vllm", "openai"])


@ENGINES
def test_every_rollout_is_there_with_its_own_tokens_and_log_probabilities(runs, settings, engine):
    rows = read_rollouts(runs[engine]).to_pylist()
    assert len(rows) == len(read_problems(runs[engine])) * settings["rollouts"]
    assert {row["provenance"] for row in rows} == {"sampled"}
    for row in rows:
        assert len(row["sampling_logprobs"]) == len(row["completion_token_ids"]) <= settings["max_tokens"]
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    groups = {}
    for row in rows:
        groups.setdefault(row["problem_id"], set()).add(tuple(row["completion_token_ids"]))
    assert max(map(len, groups.values())) > settings["rollouts"] / 2  # rollouts are drawn apart


@ENGINES
def test_the_gradient_pass_sees_the_policy_that_sampled(runs, engine):
    """With a response's end among its tokens, and the very prompt."""
    assert 0 <= gradcurate.summary(runs[engine].root).checks.logprob_kl < MOST_KL
    ended = [row for row in read_rollouts(runs[engine]).to_pylist() if row["finish_reason"] == "stop"]
    eos = load_tokenizer(find_checkpoint("smollm2-135m")).eos_token_id
    assert {row["completion_token_ids"][-1] for row in ended} == {eos}
    prompts = [
        {row["problem_id"]: row["prompt_token_ids"] for row in read_rollouts(runs[name]).to_pylist()}
        for name in ("transformers", engine)
    ]
    assert prompts[0] == prompts[1]


@ENGINES
def test_pass_rates_agree_as_far_as_sampling_noise_allows(runs, engine):
    """Rewards of all rollouts together, in units of the difference's standard error."""
    mine, other = (
        np.array(read_rollouts(runs[name])["reward"].to_pylist(), dtype=float)
        for name in ("transformers", engine)
    )
    error = np.sqrt(mine.var() / len(mine) + other.var() / len(other))
    assert abs(mine.mean() - other.mean()) < 4 * error


@ENGINES
def test_scores_are_there(runs, engine):
    scores = read_scores(runs[engine])
    assert scores["status"].to_pylist().count("scored") >= 2


def test_nothing_of_vllm_is_left_behind(runs):
    name = b"vllm_worker.py"
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if name in command]
    assert not list(runs["vllm"].rollouts.glob(".*"))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_what_samples(settings, vllm_python, demo_model, tmp_path):
    """Under the base alone, what the adapter says would have far other log-probabilities."""
    checkpoint = find_checkpoint(demo_model)
    policy = load_policy(checkpoint, load_tokenizer(checkpoint), "float32", "cpu")
    targets = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(policy.model, config).save_pretrained(tmp_path / "adapter")
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = demo_model
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(described))
    (tmp_path / "rewards.py").write_text(
        "def length(data_source, solution_str, ground_truth, extra_info):\n"
        "    return float(len(solution_str) % 2)\n"
    )
    run = finished(
        settings,
        "adapter",
        engine="vllm",
        vllm_python=vllm_python,
        model=str(tmp_path / "adapter"),
        reward=f"{tmp_path / 'rewards.py'}:length",
        rollouts=2,
        temperature=0.7,
    )
    assert gradcurate.summary(run.root).checks.logprob_kl < MOST_KL
    assert os.path.exists(run.vllm_log)
