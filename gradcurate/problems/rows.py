"""Rows of a problems file: as read, as refused, and the one decision between stop and skip.

A reader yields `Row`s. Whatever makes a single row unusable is a `RowError`; what makes the whole
file unusable is a `ProblemsError`. `RowGate` turns a fault into an error or into a `BadRow`.
"""

from dataclasses import dataclass
from typing import Any, Literal

from gradcurate.errors import ProblemsError

OnBadRow = Literal["stop", "skip"]

_SHOWN_CHARACTERS = 60


class RowError(Exception):
    """One row cannot be used; ``received`` is worded to follow "expected ...; "."""

    def __init__(self, expected: str, received: str, remedy: str = "Correct the row") -> None:
        super().__init__(expected, received, remedy)
        self.expected = expected
        self.received = received
        self.remedy = remedy


@dataclass(frozen=True)
class Row:
    """A row as a reader found it.

    Attributes:
        line: 1-based line in a text file; 1-based row or item where there are no lines.
        record: The parsed record, or the raw text or cells if there is a fault.
        fault: Why the row could not be read, if it could not.
    """

    line: int
    record: Any
    fault: RowError | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that was left out, with the reason in words."""

    file: str
    line: int
    reason: str
    record: Any


class RowGate:
    """Stops at the first faulty row of a file, or collects them all in ``bad_rows``."""

    def __init__(self, file: str, on_bad_row: OnBadRow) -> None:
        self.file = file
        self.on_bad_row = on_bad_row
        self.bad_rows: list[BadRow] = []

    def refuse(self, line: int, record: Any, fault: RowError) -> None:
        """Raise `ProblemsError` for the row, or note it as left out."""
        if self.on_bad_row == "stop":
            raise ProblemsError(
                f"{self.file}:{line}: expected {fault.expected}",
                fault.received,
                f"{fault.remedy}, or leave such rows out with --on-bad-row skip.",
            ) from fault
        self.bad_rows.append(BadRow(self.file, line, f"expected {fault.expected}; {fault.received}", record))


def shown(value: object) -> str:
    """Return a value as an error message shows it: short, on one line, null as JSON writes it."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
