"""The original columns that an export carries beside its own.

An original column keeps its name unless the trainer would break on it or overwrite it, or the export
has a column of that name that says something else: then it is called ``original_<name>``, with a note.
A column whose content is all in the export's own column of that name is not repeated.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradcurate.problems.problem import Problem


@dataclass(frozen=True)
class Carried:
    """Original columns by their new names, and a note on each that was renamed."""

    columns: dict[str, list[Any]]
    notes: tuple[str, ...]


def carried_columns(
    records: Sequence[Mapping[str, Any]],
    own: Mapping[str, Sequence[Any]],
    breaking: Collection[str],
    trainer: str,
) -> Carried:
    """Return the columns of the records that ``own`` does not hold already.

    Args:
        records: The original records, in the order of the rows of ``own``.
        own: The export's own columns.
        breaking: Names that the trainer breaks on or overwrites.
        trainer: The trainer's name, for the notes.
    """
    columns: dict[str, list[Any]] = {}
    notes: list[str] = []
    names = dict.fromkeys(name for record in records for name in record)
    for name in names:
        values = [record.get(name) for record in records]
        if name in own and all(_holds(*pair) for pair in zip(own[name], values, strict=True)):
            continue
        if name not in own and name not in breaking:
            columns[name] = values
            continue
        fresh = _free_name(name, {*own, *names, *columns})
        columns[fresh] = values
        reason = f"{trainer} has a use of its own for the name" if name in breaking else "its values differ"
        notes.append(f"Original column {name!r} is now {fresh!r}: {reason}.")
    return Carried(columns, tuple(notes))


def without_same_prompt(record: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """Drop a record's ``prompt`` if it is the problem's, as text or messages, before any system prompt."""
    original = record.get("prompt")
    messages = [{"role": "user", "content": original}] if isinstance(original, str) else original
    asked = list(problem.prompt)
    same = isinstance(messages, list) and [_without_nulls(item) for item in messages] in (asked, asked[1:])
    return {name: value for name, value in record.items() if not (same and name == "prompt")}


def _holds(own: Any, original: Any) -> bool:
    if isinstance(own, dict) and isinstance(original, dict):
        return all(own.get(key) == value for key, value in _without_nulls(original).items())
    return bool(original is None or own == original)


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if inner is not None}


def _free_name(name: str, taken: Collection[str]) -> str:
    fresh = f"original_{name}"
    return fresh if fresh not in taken else _free_name(fresh, taken)
