"""Sampling with transformers beside vLLM, in bfloat16, on the same prompts and processor.

    python benchmarks/engines.py --vllm .venv-vllm/bin/python

The demo's first questions in a chat, eight rollouts each, as the product batches them. vLLM keeps
their prefixes
from one repetition to the next. Loading and a first round are not counted; medians over three.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from material import SCRATCH, chat_run, demo_policy
from measuring import write_table

from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.results import read_rollouts
from gradcurate.rollouts.batches import cut_problem_batches
from gradcurate.rollouts.engines.transformers_engine import sample_completions
from gradcurate.rollouts.rollout import PromptedProblem
from gradcurate.store.manifest import read_manifest

PROBLEMS, GROUP, MAX_TOKENS, REPETITIONS = 60, 8, 48, 3
VLLM_SCRIPT = Path(__file__).with_name("vllm_sampling.py")


def demo_prompts() -> list[PromptedProblem]:
    """Return the demo's first prompts."""
    rows = read_rollouts(chat_run(), ["problem_id", "prompt_token_ids"]).to_pylist()
    prompts = {row["problem_id"]: tuple(row["prompt_token_ids"]) for row in rows}
    return [PromptedProblem(name, "pool", ids) for name, ids in sorted(prompts.items())[:PROBLEMS]]


def with_transformers(problems: list[PromptedProblem]) -> list[float]:
    """Return the tokens/s of each repetition."""
    policy, settings = demo_policy("bfloat16"), read_manifest(chat_run().manifest).settings
    batches, rng, rates = cut_problem_batches(problems, settings), np.random.default_rng(0), []
    for _ in range(REPETITIONS + 1):
        started, tokens = time.perf_counter(), 0
        for batch in batches:
            uniforms = rng.random((len(batch), GROUP, MAX_TOKENS), dtype=np.float32)
            found = sample_completions(policy, [p.prompt_token_ids for p in batch], uniforms)
            tokens += sum(len(completion.token_ids) for completion in found)
        rates.append(tokens / (time.perf_counter() - started))
    return rates[1:]


def with_vllm(python: str, problems: list[PromptedProblem]) -> list[float]:
    """Return the tokens/s of each repetition."""
    file = SCRATCH / "prompts.json"
    file.write_text(json.dumps([p.prompt_token_ids for p in problems]))
    command = [python, str(VLLM_SCRIPT), str(find_checkpoint("smollm2-135m").folder), str(file)]
    command += [str(number) for number in (GROUP, MAX_TOKENS, REPETITIONS)]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2"}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if finished.returncode:
        sys.exit(finished.stdout + finished.stderr)
    line = next(line for line in reversed(finished.stdout.splitlines()) if line.startswith("[{"))
    return [found["tokens"] / found["seconds"] for found in json.loads(line)]


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vllm", default=".venv-vllm/bin/python")
    problems = demo_prompts()
    rates = {
        "vLLM": statistics.median(with_vllm(parser.parse_args().vllm, problems)),
        "transformers": statistics.median(with_transformers(problems)),
    }
    write_table(
        "engines",
        ["engine", "tokens/s", "beside vLLM"],
        [[name, f"{rate:.0f}", f"{rate / rates['vLLM']:.2f}"] for name, rate in rates.items()],
    )


if __name__ == "__main__":
    main()
