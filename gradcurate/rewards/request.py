"""What a reward is asked and what it answers: facts only, both of them JSON-serialisable.

The first four fields of a request are the four keywords that verl passes to ``compute_score``, the
others what further trainers pass (`gradcurate.rewards.styles`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RewardRequest:
    """One completion to be rewarded.

    Attributes:
        data_source: Where the problem comes from.
        solution_str: The completion.
        ground_truth: The reference answer.
        extra_info: Whatever else the reward may want, of JSON types only.
        row: The problem's own record.
        prompt: Messages, or text where the policy is asked plain text.
        prompt_text: The prompt as the policy read it.
        raw_completion: The completion with its special tokens.
        prompt_token_ids: The prompt's tokens.
        completion_token_ids: The completion's tokens.
    """

    data_source: str
    solution_str: str
    ground_truth: str
    extra_info: dict[str, Any]
    row: dict[str, Any] = field(default_factory=dict)
    prompt: Sequence[dict[str, str]] | str = ""
    prompt_text: str = ""
    raw_completion: str = ""
    prompt_token_ids: Sequence[int] = ()
    completion_token_ids: Sequence[int] = ()


@dataclass(frozen=True)
class RewardOutcome:
    """What came of one request.

    Attributes:
        reward: A finite number, or None if the rollout failed.
        detail: Other keys of a reward that returned a dict; if the rollout failed, its ``error`` as text.
    """

    reward: float | None
    detail: dict[str, Any]


def failed(reason: str, detail: dict[str, Any] | None = None) -> RewardOutcome:
    """Return the outcome of a rollout that failed for ``reason``."""
    return RewardOutcome(reward=None, detail={**(detail or {}), "error": reason})
