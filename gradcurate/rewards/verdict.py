"""From whatever a reward returned to an outcome that can be sent as JSON.

A reward is a finite number, or a mapping with one under ``score``; everything else is a failed
rollout with the reason in words. Nothing that is not a number becomes 0.
"""

import math
from collections.abc import Mapping
from typing import Any

from gradcurate.rewards.request import RewardOutcome, failed


def outcome_of(returned: object) -> RewardOutcome:
    """Return the outcome of a reward that returned without an exception."""
    if isinstance(returned, RewardOutcome):  # a sum of several
        return returned
    if not isinstance(returned, Mapping):
        return _judge(returned, {})
    detail = json_safe({key: value for key, value in returned.items() if key != "score"})
    if "score" not in returned:
        keys = ", ".join(repr(key) for key in returned)
        return failed(f"returned a dict without 'score' (its keys: {keys or 'none'})", detail)
    return _judge(returned["score"], detail)


def _judge(value: Any, detail: dict[str, Any]) -> RewardOutcome:
    try:
        # Text such as "1.0" would pass float(), and so would a reward that forgot to compare.
        number = None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        return failed(f"returned {repr(value)[:200]}, not a number", detail)
    if not math.isfinite(number):
        return failed(f"returned {number}", detail)
    return RewardOutcome(reward=number, detail=detail)


def json_safe(value: Any) -> Any:
    """Return ``value`` in JSON types: arrays become lists, and what JSON cannot hold becomes its text."""
    if isinstance(value, str):
        return storable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [json_safe(item) for item in value]
        # A set has no order of its own, and another on every run.
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    # numpy's and torch's scalars and arrays, without importing either.
    return json_safe(value.tolist()) if hasattr(value, "tolist") else storable(str(value))


def storable(text: str) -> str:
    """Return text with a ? for each half of a surrogate pair, which no file can hold."""
    return text.encode(errors="replace").decode()
