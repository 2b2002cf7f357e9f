"""A problem: what the policy is asked, what the right answer is, and the record it came from.

Identity is by content. ``problem_id`` is the user's own id column where there is one, else a
hash of prompt and answer; it is never a position in a file.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["pool", "validation"]
Message = dict[str, str]


@dataclass(frozen=True)
class Problem:
    """One row of a pool or validation set.

    Attributes:
        problem_id: The user's id, or `content_id` of prompt and answer.
        split: ``pool`` or ``validation``.
        source: Where the problem comes from (verl's ``data_source``); ``unknown`` if no column says.
        prompt: Chat messages, each with ``role`` and ``content``.
        prompt_is_text: The file gave one string rather than messages.
        answer: The reference answer as text.
        row: The original record as parsed, untouched.
    """

    problem_id: str
    split: Split
    source: str
    prompt: tuple[Message, ...]
    prompt_is_text: bool
    answer: str
    row: dict[str, Any]


def content_id(prompt: tuple[Message, ...], answer: str) -> str:
    """Return 16 hex digits that depend on the messages and the answer alone."""
    canonical = json.dumps([list(prompt), answer], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
