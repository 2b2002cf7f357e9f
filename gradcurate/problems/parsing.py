"""From a record to a problem: the checks of one row, with no knowledge of the others.

The record itself is kept untouched as ``row``. An answer that is text is taken as it is; a number,
boolean, list or object becomes its JSON text (``5`` and ``5.0`` stay apart). An id from content is
of the prompt as the file gives it, so that a run with another system prompt keeps its ids.
"""

import math
from typing import Any

from gradcurate.problems.columns import Columns, lookup
from gradcurate.problems.json_text import json_text, text_of_other
from gradcurate.problems.problem import Message, Problem, Split, content_id
from gradcurate.problems.rows import RowError, shown

UNKNOWN_SOURCE = "unknown"

_ROLES = ("system", "user", "assistant", "tool")
_MESSAGE_KEYS = ("role", "content")


def parse_problem(
    record: dict[str, Any], columns: Columns, split: Split, system_prompt: str | None
) -> Problem:
    """Return the problem of one record, or raise `RowError`."""
    _require_storable(record)
    value = lookup(record, columns.prompt)
    prompt = _prompt(value, columns.prompt)
    answer = _answer(lookup(record, columns.answer), columns.answer)
    return Problem(
        problem_id=_user_id(record, columns.id) if columns.id else content_id(prompt, answer),
        split=split,
        source=_source(record, columns.source),
        prompt=_with_system_prompt(prompt, system_prompt),
        prompt_is_text=isinstance(value, str),
        answer=answer,
        row=record,
    )


def _require_storable(record: dict[str, Any]) -> None:
    """Refuse now what the run directory could not hold later."""
    try:
        json_text(record).encode()
    except UnicodeEncodeError as reason:
        raise RowError("valid Unicode", "the text has half of a surrogate pair") from reason
    except TypeError as reason:
        raise RowError("values that JSON can hold", f"got {reason}") from reason


def _prompt(value: object, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        messages: tuple[Message, ...] = ({"role": "user", "content": value},)
    elif isinstance(value, list):
        messages = tuple(_message(item, column, position) for position, item in enumerate(value))
    else:
        raise RowError(f"text or a list of messages in column {column!r}", f"got {shown(value)}")
    if not any(message["content"].strip() for message in messages):
        raise RowError(f"a prompt that is not empty in column {column!r}", f"got {shown(value)}")
    if messages[-1]["role"] == "assistant":
        raise RowError(
            f"a prompt in column {column!r} that the policy can answer",
            "its last message is from the assistant",
            "Remove that message",
        )
    return messages


def _message(item: object, column: str, position: int) -> Message:
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in _MESSAGE_KEYS):
        raise RowError("messages with role and content as text", f"{column}[{position}] is {shown(item)}")
    # Parquet fills keys that other rows have with nulls; a key with a value would be lost on the policy.
    extra = [key for key, value in item.items() if key not in _MESSAGE_KEYS and value is not None]
    if extra:
        raise RowError(
            "messages with role and content only", f"{column}[{position}] also has {', '.join(extra)}"
        )
    if item["role"] not in _ROLES:
        raise RowError(f"a role of {', '.join(_ROLES)}", f"{column}[{position}] has {shown(item['role'])}")
    return {key: item[key] for key in _MESSAGE_KEYS}


def _with_system_prompt(prompt: tuple[Message, ...], system_prompt: str | None) -> tuple[Message, ...]:
    if system_prompt is None or any(message["role"] == "system" for message in prompt):
        return prompt
    return ({"role": "system", "content": system_prompt}, *prompt)


def _answer(value: object, column: str) -> str:
    not_a_number = isinstance(value, float) and math.isnan(value)  # pandas writes a missing cell so
    text = "" if value is None or value in ([], {}) or not_a_number else _text(value)
    if not text.strip():
        raise RowError(f"an answer in column {column!r}", f"got {shown(value)}")
    return text


def _user_id(record: dict[str, Any], column: str) -> str:
    value = lookup(record, column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError(f"text or an integer as id in column {column!r}", f"got {shown(value)}")
    return str(value)


def _source(record: dict[str, Any], column: str | None) -> str:
    value = lookup(record, column) if column else None
    return UNKNOWN_SOURCE if value is None or value == "" else _text(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | list | dict):
        return json_text(value)
    return text_of_other(value)
