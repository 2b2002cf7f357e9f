"""Sampling from a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp and others.

Prompts go out as token ids to ``/completions``, so that the server reads the very tokens that gradients are
taken on, whatever its chat template. vLLM sends the response's tokens back when asked
(``return_token_ids``); of other servers only the text is known, and cut into tokens again. Log-probabilities
are kept at temperature 1 without top-p alone: servers differ in whether they tell those of the cut and
scaled distribution. What vLLM would take from the checkpoint's generation configuration (top-k,
repetition penalty) is switched off.

Each rollout is a request of its own, without a seed (`vllm_worker` says why), repeated with growing pauses
while the server is down or busy.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from typing import Any, final

from gradcurate.config import Settings
from gradcurate.errors import EngineError
from gradcurate.policies.stop_tokens import end_token_id
from gradcurate.rollouts.batches import Batch
from gradcurate.rollouts.engines.engine import Engine
from gradcurate.rollouts.engines.journal import Journal, Keep, Request, complete_batches
from gradcurate.rollouts.rollout import Completion, FinishReason
from gradcurate.servers import choose_model, client_options, import_openai, listing_models, server_errors

NEUTRAL = {"return_token_ids": True, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Fields of vLLM's and SGLang's own: tell the tokens, and sample from the policy as it is."""


def _only_choice(address: str, response: Any) -> Any:
    choices = getattr(response, "choices", None) or []
    if len(choices) != 1:
        raise EngineError(
            f"The server {address} must answer a request for one completion with one",
            f"it answered {str(response)[:200]!r}",
            "Check that the address is that of its OpenAI-compatible interface.",
        )
    return choices[0]


@final
class _Asking:
    """Requests under way, which another thread can stop; what is open is then closed in order."""

    def __init__(self) -> None:
        self._begun, self._workers = threading.Event(), list[asyncio.Task[None]]()

    def begin(self, workers: list[asyncio.Task[None]]) -> None:
        self._workers = workers
        self._begun.set()

    @contextlib.contextmanager
    def begun_at_last(self) -> Iterator[None]:
        """Let nobody wait for workers that never began."""
        try:
            yield
        finally:
            self._begun.set()

    def stop(self) -> None:
        """Cancel the workers, and not the task that waits for them and closes the client."""
        self._begun.wait()
        for worker in self._workers:
            with contextlib.suppress(RuntimeError):  # the loop is closed: all have ended
                worker.get_loop().call_soon_threadsafe(worker.cancel)


@final
class ServerEngine(Engine):
    """An OpenAI-compatible server that serves the policy.

    Args:
        settings: How to sample, and where.
        tokenizer: The policy's.
        stop_token_ids: What ends a response.
        journal: Where completions of unfinished batches are kept.
    """

    def __init__(
        self, settings: Settings, tokenizer: Any, stop_token_ids: frozenset[int], journal: Journal
    ) -> None:
        self._settings, self._tokenizer, self._journal = settings, tokenizer, journal
        self._stop_token_ids, self._address = stop_token_ids, settings.server or ""

    def sample(self, batches: Sequence[Batch]) -> Generator[tuple[Batch, list[Completion]], None, None]:
        """Yield each batch when its last rollout has ended."""
        asking = _Asking()
        return complete_batches(
            batches,
            self._settings.rollouts,
            self._journal,
            stream=lambda asked, keep: asyncio.run(self._ask_all(asked, keep, asking)),
            stop=asking.stop,
        )

    def committed(self, batch: Batch) -> None:
        """Remove what was kept of a batch."""
        self._journal.remove(batch)

    async def _ask_all(self, asked: Sequence[Request], keep: Keep, asking: "_Asking") -> None:
        """Keep ``server_concurrency`` requests under way until all are answered."""
        openai, settings, left = import_openai(), self._settings, iter(asked)
        options = client_options(self._address, settings.server_timeout_seconds, settings.server_retries)
        with server_errors(self._address), asking.begun_at_last():
            async with openai.AsyncOpenAI(**options) as client, asyncio.TaskGroup() as tasks:
                ask = await self._asker(client, asked[0])

                async def work() -> None:
                    for request in left:
                        keep(request, await ask(request))

                asking.begin([tasks.create_task(work()) for _ in range(settings.server_concurrency)])

    async def _asker(self, client: Any, first: Request) -> Callable[[Request], Awaitable[Completion]]:
        """Find out the model's name, and whether the server takes what is not OpenAI's own."""
        openai, settings = import_openai(), self._settings
        with listing_models(self._address):
            served = [model.id async for model in client.models.list()]
        model = choose_model(served, settings.server_model, "--server-model")
        extras = {**NEUTRAL, "stop_token_ids": sorted(self._stop_token_ids)}
        try:
            await self._complete(client, model, extras, first, max_tokens=1)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            extras = {}
        return lambda request: self._complete(client, model, extras, request, settings.max_tokens)

    async def _complete(
        self, client: Any, model: str, extras: dict[str, Any], request: Request, max_tokens: int
    ) -> Completion:
        (problem, _), settings = request, self._settings
        response = await client.completions.create(
            model=model,
            prompt=list(problem.prompt_token_ids),
            max_tokens=max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            logprobs=1,
            extra_body=extras,
        )
        return self._completion(_only_choice(self._address, response))

    def _completion(self, choice: Any) -> Completion:
        finish_reason: FinishReason = "length" if choice.finish_reason == "length" else "stop"
        ids = (choice.model_extra or {}).get("token_ids")
        if not ids:
            return Completion(self._cut(choice.text, finish_reason), None, finish_reason, provenance="text")
        told = choice.logprobs and choice.logprobs.token_logprobs
        plain = self._settings.temperature == 1 and self._settings.top_p == 1
        known = plain and told and len(told) == len(ids)
        return Completion(tuple(ids), tuple(told) if known else None, finish_reason)

    def _cut(self, text: str, finish_reason: FinishReason) -> tuple[int, ...]:
        """Cut a response into tokens again, and put back the one that ended it."""
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        end = end_token_id(self._tokenizer, self._stop_token_ids)
        return (*ids, end) if end is not None and (finish_reason == "stop" or not ids) else tuple(ids)
