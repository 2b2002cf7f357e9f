"""vLLM in a process of its own: ``python vllm_worker.py FD CONFIG``, for any Python that has vLLM.

It imports nothing of gradcurate, so that vLLM may live in another environment. CONFIG is JSON::

    {"engine": {keywords of vllm.LLM}, "sampling": {those of vllm.SamplingParams}, "adapter": folder or null}

Each line on stdin names a JSON file of problems, ``[{"prompt_token_ids": [], "rollouts": []}]``.
File descriptor FD gets a line ``{}`` when the engine stands and after the last rollout of a file, and one
for each rollout as it ends: ``{"problem": position, "rollout", "token_ids", "logprobs", "finish_reason"}``.
When stdin ends, so does the process, at once: its parent is done, or gone.

Every rollout is a request of its own, so that it can be kept when it ends. Prefix caching computes their
prompt once. Requests have no seed: vLLM would draw each one's numbers apart, which is slow, and on a CPU
ends in "CPU Generator does not use offset" when a prompt is read in pieces.
"""

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, TextIO


def main(answers: TextIO, config: dict[str, Any]) -> None:
    """Serve files of problems until stdin ends."""
    files: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_stdin, args=(files,), daemon=True).start()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # no grandchild that outlives a kill

    from vllm import LLM

    engine = LLM(**config["engine"]).llm_engine
    _send(answers, {})
    while True:
        problems = json.loads(Path(files.get()).read_text(encoding="utf-8"))
        _ask(engine, problems, config)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    _send(answers, _completion(output))
        _send(answers, {})


def _read_stdin(files: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        files.put(line.strip())
    os._exit(0)


def _ask(engine: Any, problems: list[dict[str, Any]], config: dict[str, Any]) -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind

    adapter = LoRARequest("policy", 1, config["adapter"]) if config["adapter"] else None
    for position, problem in enumerate(problems):
        for rollout in problem["rollouts"]:
            engine.add_request(
                f"{position}/{rollout}",
                {"prompt_token_ids": problem["prompt_token_ids"]},
                SamplingParams(**config["sampling"], output_kind=RequestOutputKind.FINAL_ONLY),
                lora_request=adapter,
            )


def _completion(output: Any) -> dict[str, Any]:
    problem, _, rollout = output.request_id.partition("/")
    (sampled,) = output.outputs
    return {
        "problem": int(problem),
        "rollout": int(rollout),
        "token_ids": list(sampled.token_ids),
        "logprobs": sampled.logprobs
        and [of[token].logprob for of, token in zip(sampled.logprobs, sampled.token_ids, strict=True)],
        "finish_reason": sampled.finish_reason,
    }


def _send(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(os.fdopen(int(sys.argv[1]), "w", encoding="utf-8"), json.loads(sys.argv[2]))
