"""Sampling with vLLM, in a process of its own that is gone before gradients need the memory.

The process starts with the first batch and serves both splits. It may belong to another Python
(``--vllm-python``): nothing but JSON passes between them. A checkpoint's adapter is served as it is, by
``LoRARequest``. Problems are asked in the order of their batches and completions come back as they end,
so that one long response holds up nothing but its own batch.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any, final

from gradcurate.config import Settings
from gradcurate.errors import EngineError
from gradcurate.policies.checkpoints import ADAPTER_CONFIG, Checkpoint
from gradcurate.rollouts.batches import Batch
from gradcurate.rollouts.engines.engine import Engine
from gradcurate.rollouts.engines.journal import Journal, Keep, Request, complete_batches
from gradcurate.rollouts.engines.randomness import seed_of_all
from gradcurate.rollouts.rollout import Completion

WORKER = Path(__file__).with_name("vllm_worker.py")
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM allows for its largest rank."""


@final
class VllmEngine(Engine):
    """vLLM's offline engine.

    Args:
        settings: How to sample.
        checkpoint: The policy's files.
        stop_token_ids: What ends a response.
        longest_prompt: In tokens, of all problems.
        journal: Where completions of unfinished batches are kept.
        log: Where what vLLM prints goes.
    """

    def __init__(
        self,
        settings: Settings,
        checkpoint: Checkpoint,
        stop_token_ids: frozenset[int],
        longest_prompt: int,
        journal: Journal,
        log: Path,
    ) -> None:
        self._settings, self._journal, self._log = settings, journal, log
        self._config: dict[str, Any] = {
            "engine": _engine_options(settings, checkpoint, longest_prompt),
            "sampling": _sampling_options(settings, stop_token_ids),
            "adapter": checkpoint.adapter and str(checkpoint.adapter.absolute()),
        }
        self._worker: _Worker | None = None

    def sample(self, batches: Sequence[Batch]) -> Generator[tuple[Batch, list[Completion]], None, None]:
        """Yield each batch when its last rollout has ended."""
        return complete_batches(
            batches, self._settings.rollouts, self._journal, self._stream, stop=self.close
        )

    def committed(self, batch: Batch) -> None:
        """Remove what was kept of a batch."""
        self._journal.remove(batch)

    def close(self) -> None:
        """End the process, and free its memory."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _stream(self, asked: Sequence[Request], keep: Keep) -> None:
        worker = self._worker = self._worker or self._start(asked)
        problems = [(problem, [r for _, r in of]) for problem, of in groupby(asked, lambda r: r[0])]
        questions = [
            {"prompt_token_ids": problem.prompt_token_ids, "rollouts": rollouts}
            for problem, rollouts in problems
        ]
        with contextlib.closing(worker.answers(questions)) as answers:
            for answer in answers:
                completion = Completion(
                    token_ids=tuple(answer["token_ids"]),
                    logprobs=answer["logprobs"] and tuple(answer["logprobs"]),
                    finish_reason="stop" if answer["finish_reason"] == "stop" else "length",
                )
                keep((problems[answer["problem"]][0], answer["rollout"]), completion)

    def _start(self, asked: Sequence[Request]) -> "_Worker":
        """Start the process, with a seed of all that is owed: one that goes on repeats no numbers."""
        seed = seed_of_all(self._settings.seed, [(problem.problem_id, rollout) for problem, rollout in asked])
        config = {**self._config, "engine": {"seed": seed, **self._config["engine"]}}
        return _Worker(self._settings.vllm_python or sys.executable, config, self._log)


def _engine_options(settings: Settings, checkpoint: Checkpoint, longest_prompt: int) -> dict[str, Any]:
    adapter = checkpoint.adapter
    lora = {"enable_lora": True, "max_lora_rank": _lora_rank(adapter)} if adapter else {}
    return {
        "model": str(checkpoint.folder.absolute()),
        "tokenizer": str(checkpoint.tokenizer_folder.absolute()),
        "dtype": settings.dtype,
        "max_model_len": longest_prompt + settings.max_tokens,
        "logprobs_mode": "raw_logprobs" if settings.temperature == 1 else "processed_logprobs",
        **lora,
        **settings.vllm_keywords,
    }


def _lora_rank(adapter: Path) -> int:
    rank = int(json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("r", LORA_RANKS[0]))
    return next((allowed for allowed in LORA_RANKS if allowed >= rank), rank)


def _sampling_options(settings: Settings, stop_token_ids: frozenset[int]) -> dict[str, Any]:
    # Processed log-probabilities are those of the cut distribution, which is not the one of gradients.
    known = settings.temperature == 1 or settings.top_p == 1
    return {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
        "stop_token_ids": sorted(stop_token_ids),
        "logprobs": 0 if known else None,
        "detokenize": False,
    }


@final
class _Worker:
    """The process: what it is told, and what it answers."""

    def __init__(self, python: str, config: dict[str, Any], log: Path) -> None:
        self._log, self._started, self._reading = log, False, threading.Lock()
        self._files = tempfile.TemporaryDirectory(prefix="gradcurate-vllm-")
        reading, writing = os.pipe()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [python, str(WORKER), str(writing), json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[writing],
                start_new_session=True,
            )
        os.close(writing)
        self._answers: IO[str] = os.fdopen(reading, encoding="utf-8")

    def answers(self, questions: Sequence[dict[str, Any]]) -> Generator[dict[str, Any], None, None]:
        """Yield the answers to all questions, as they come.

        Raises:
            EngineError: The process ended before the last.
        """
        file = Path(self._files.name) / "problems.json"
        file.write_text(json.dumps(questions), encoding="utf-8")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the end of its answers tells
            self._process.stdin.write(f"{file}\n".encode())
            self._process.stdin.flush()
        return self._read()

    def kill(self) -> None:
        """End the process and all that it started, and remove its files; harmless when done twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with self._reading:
            self._answers.close()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._files.cleanup()

    def _read(self) -> Generator[dict[str, Any], None, None]:
        with self._reading:
            for line in self._answers:
                message = json.loads(line)
                if message:
                    yield message
                elif self._started:
                    return
                self._started = True
        raise EngineError(
            "vLLM must sample to the end" if self._started else "vLLM must start",
            f"its process ended: {_cause(self._log)}",
            f"{self._log} has all it printed; --vllm-options changes how it runs, --vllm-python where.",
        )


def _cause(log: Path) -> str:
    """Return the last error that a log names, else its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if re.search(r"\w(Error|Exception)\b", line)]
    return (errors or lines or ["it printed nothing"])[-1]
