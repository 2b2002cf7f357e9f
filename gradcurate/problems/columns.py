"""Which columns of a file hold the id, the prompt, the answer and the source.

A layout is recognised by its columns, judged on the union of the keys of all records:

    verl    prompt (messages), reward_model.ground_truth, data_source
    TRL     prompt (text or messages), answer | ground_truth | solution
    flat    prompt | question | problem | input, and answer | ground_truth | solution | label

Where several are present the first of `RECOGNISED` wins, and a column that the user names wins
over all. A name with dots reaches into nested records, unless a column has that very name.

verl's ``extra_info.index`` is never taken as an id unless asked for: it is a position, and often
restarts with each source.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradcurate.errors import ProblemsError

Role = Literal["id", "prompt", "answer", "source"]

RECOGNISED: Mapping[Role, tuple[str, ...]] = {
    "id": ("problem_id", "id", "uid", "question_id"),
    "prompt": ("prompt", "question", "problem", "input"),
    "answer": ("reward_model.ground_truth", "answer", "ground_truth", "solution", "label"),
    "source": ("data_source", "source", "dataset", "subset"),
}

_LISTED_COLUMNS = 30
_LIKENESS = 0.7  # difflib's own 0.6 takes completion for solution


@dataclass(frozen=True)
class ColumnChoice:
    """The columns that the user names; None leaves a column to be recognised.

    ``id=""`` asks for ids from content even where an id column is present.
    """

    id: str | None = None
    prompt: str | None = None
    answer: str | None = None
    source: str | None = None


RECOGNISE_ALL = ColumnChoice()


@dataclass(frozen=True)
class Columns:
    """The columns to read; without an id column, ids come from content."""

    id: str | None
    prompt: str
    answer: str
    source: str | None


def resolve_columns(records: Iterable[Mapping[str, Any]], choice: ColumnChoice, file: str) -> Columns:
    """Return the columns of a file's records, or raise `ProblemsError` for one that is not there."""
    present = column_names(records)
    return Columns(
        id=None if choice.id == "" else _find("id", choice.id, present, file),
        prompt=_require("prompt", choice.prompt, present, file),
        answer=_require("answer", choice.answer, present, file),
        source=_find("source", choice.source, present, file),
    )


def column_names(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the union of the records' keys, nested ones dotted, in the order of first appearance."""
    return tuple(dict.fromkeys(name for record in records for name in _names(record)))


def lookup(record: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, whose name may be dotted; None if the record lacks it."""
    if column in record:
        return record[column]
    head, _, rest = column.partition(".")
    inner = record.get(head)
    return lookup(inner, rest) if rest and isinstance(inner, Mapping) else None


def _names(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in record.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{key}.")


def _require(role: Role, chosen: str | None, present: Sequence[str], file: str) -> str:
    column = _find(role, chosen, present, file)
    if column is None:
        *names, last = RECOGNISED[role]
        expected = f"expected a column with the {role} ({', '.join(names)} or {last})"
        raise _missing(role, expected, RECOGNISED[role], present, file)
    return column


def _find(role: Role, chosen: str | None, present: Sequence[str], file: str) -> str | None:
    if chosen is None:
        return next((name for name in RECOGNISED[role] if name in present), None)
    if chosen not in present:
        raise _missing(role, f"expected the column {chosen!r} of --{role}-column", (chosen,), present, file)
    return chosen


def _missing(
    role: Role, expected: str, wanted: Sequence[str], present: Sequence[str], file: str
) -> ProblemsError:
    guess = _closest(role, wanted, present)
    listed = ", ".join(present[:_LISTED_COLUMNS])
    more = len(present) - _LISTED_COLUMNS
    return ProblemsError(
        f"{file}: {expected}",
        f"the columns are {listed}" + (f" and {more} more" if more > 0 else ""),
        f"Did you mean --{role}-column {guess}?" if guess else f"Name the column with --{role}-column.",
    )


def _closest(role: Role, wanted: Sequence[str], present: Sequence[str]) -> str | None:
    """Return the present column most like a wanted one, by its whole name or its last part."""
    of_other_roles = {name for other, names in RECOGNISED.items() if other != role for name in names}
    spellings: dict[str, str] = {}
    for column in present:
        if column not in of_other_roles:
            spellings.setdefault(column.lower(), column)
            spellings.setdefault(column.lower().rpartition(".")[2], column)
    for name in wanted:
        if matches := difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=_LIKENESS):
            return spellings[matches[0]]
    return None
