"""One rollout of a trainer's dump, in whatever form the dump has it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gradcurate.problems.problem import Message


@dataclass(frozen=True)
class DumpedRollout:
    """A rollout as dumped: tokens where the trainer kept them, else text.

    Attributes:
        place: File and line or row, for messages.
        completion: The response as text.
        reward: What the trainer gave it; None where it gave none.
        problem_id: The pool's id, where the dump carries it.
        messages: The prompt as messages.
        prompt_text: The prompt as text, mostly rendered.
        prompt_token_ids: The prompt as tokens.
        completion_token_ids: The response as tokens.
        logprobs: The sampler's log-probability of each of them.
        detail: Other facts of the reward.
    """

    place: str
    completion: str | None
    reward: float | None
    problem_id: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt_text: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    completion_token_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    detail: dict[str, Any] = field(default_factory=dict)
