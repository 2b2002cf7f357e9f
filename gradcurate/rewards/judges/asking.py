"""Asking a judge: each question once, within the time of a reward call and the judge's budget.

Replies lie in the cache folder, under what they depend on. So a run that goes on pays for none twice, and
another pattern reads those that are there. A judge that is down or whose budget is spent is no fault of a
rollout: the run stops, and the same command goes on from there.
"""

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, final

from gradcurate.cache import cache_directory
from gradcurate.errors import EngineError, first_line
from gradcurate.rewards.judges.judge import Judge, read_judge
from gradcurate.rewards.judges.replies import Replies
from gradcurate.rewards.request import RewardRequest
from gradcurate.rewards.spec import RewardSpec
from gradcurate.servers import choose_model, client_options, import_openai, listing_models, server_errors

SHARE_OF_TIME = 0.8
"""Of a reward call's time that a judge may take, all repetitions included: the call itself ends in time."""

DEFAULT_SECONDS = 10.0
PAUSE_SECONDS = 1.0
SHORTEST_SECONDS = 0.05
KEPT_CHARACTERS = 2000


def judge_reward(path: Path, spec: RewardSpec) -> Callable[[RewardRequest], dict[str, Any]]:
    """Return a judge as a reward.

    Raises:
        RewardError: Its file is faulty.
        SettingsError: The package that it is asked with is not installed.
    """
    import_openai()
    judge = read_judge(path)
    seconds = SHARE_OF_TIME * (spec.timeout_seconds or DEFAULT_SECONDS)
    bench = _Bench(path, judge, seconds)

    def reward(request: RewardRequest) -> dict[str, Any]:
        reply = bench.reply(judge.question(**_values(request)))
        return {"score": judge.verdict(reply), "reply": reply[:KEPT_CHARACTERS]}

    return reward


def _values(request: RewardRequest) -> dict[str, Any]:
    messages = request.prompt
    return {
        "prompt": messages if isinstance(messages, str) else "\n\n".join(m["content"] for m in messages),
        "response": request.solution_str,
        "answer": request.ground_truth,
        "source": request.data_source,
        "row": request.row,
    }


@final
class _Bench:
    """A judge, and what it has replied."""

    def __init__(self, path: Path, judge: Judge, seconds: float) -> None:
        self._path, self._judge, self._seconds = path, judge, seconds
        self._replies = Replies(cache_directory() / "judges" / f"{judge.question_digest}.sqlite")

    def reply(self, question: str) -> str:
        """Return the reply to a question, from the judge where there is none yet.

        Raises:
            EngineError: The judge does not answer, or its budget is spent.
        """
        known = self._replies.find(question)
        if known is not None:
            return known
        if not self._replies.reserve(question, self._judge.budget):
            raise EngineError(
                f"A judge replies to at most budget={self._judge.budget} questions",
                f"{self._path} has none left",
                "Raise its budget: the same command then goes on, and pays for no reply twice.",
            )
        try:
            with server_errors(self._judge.server):
                said = self._ask(question)
        except BaseException:
            self._replies.release(question)
            raise
        self._replies.keep(question, said)
        return said

    def _ask(self, question: str) -> str:
        """Ask until there is a reply, as long as time is left."""
        openai, deadline = import_openai(), time.monotonic() + self._seconds
        while True:
            try:
                model = self._model
                left = max(SHORTEST_SECONDS, deadline - time.monotonic())
                answer = self._client.with_options(timeout=left).chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": question}],
                    max_tokens=self._judge.max_tokens,
                    temperature=self._judge.temperature,
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                # Too long, or filtered: of this question alone.
                raise ValueError(f"the judge refuses the question: {first_line(error)}") from error
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError):
                if time.monotonic() + PAUSE_SECONDS >= deadline:
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                return answer.choices[0].message.content or ""

    @cached_property
    def _client(self) -> Any:
        return import_openai().OpenAI(**client_options(self._judge.server, self._seconds, retries=0))

    @cached_property
    def _model(self) -> str:
        with listing_models(self._judge.server):
            served = [model.id for model in self._client.models.list()]
        return choose_model(served, self._judge.model, f"model of {self._path}")
