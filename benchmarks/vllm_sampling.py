"""vLLM's half of ``engines.py``, for the Python of an environment that has vLLM.

    python vllm_sampling.py MODEL_FOLDER PROMPTS.json GROUP MAX_TOKENS REPETITIONS

Prints the tokens and the seconds of each repetition as JSON.
"""

import json
import sys
import time
from pathlib import Path

from vllm import LLM, SamplingParams


def main(folder: str, prompts: str, group: int, max_tokens: int, repetitions: int) -> None:
    """Sample the same prompts several times, after once to warm up."""
    engine = LLM(model=folder, dtype="bfloat16", enforce_eager=True, max_model_len=512)
    asked = [{"prompt_token_ids": ids} for ids in json.loads(Path(prompts).read_text())]
    sampling = SamplingParams(n=group, temperature=1.0, max_tokens=max_tokens, logprobs=0)
    measured = []
    for _ in range(repetitions + 1):
        started = time.perf_counter()
        outputs = engine.generate(asked, sampling, use_tqdm=False)
        taken = time.perf_counter() - started
        tokens = sum(len(c.token_ids) for output in outputs for c in output.outputs)
        measured.append({"tokens": tokens, "seconds": taken})
    print(json.dumps(measured[1:]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
