"""Reading a pool or a validation set: rows in, problems out, and nothing dropped in silence.

Row-level faults stop the reading with the file and line, or are collected as `BadRow`s. A set
without a single problem is always an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gradcurate.errors import ProblemsError
from gradcurate.problems.columns import RECOGNISE_ALL, ColumnChoice, Columns, resolve_columns
from gradcurate.problems.files import read_rows
from gradcurate.problems.parsing import parse_problem
from gradcurate.problems.problem import Problem, Split
from gradcurate.problems.rows import BadRow, OnBadRow, Row, RowError, RowGate


@dataclass(frozen=True)
class ProblemSet:
    """The problems of one file, and what was left out of it.

    Attributes:
        problems: The problems, in the order of the file.
        bad_rows: The rows left out, in the order of the file.
        lines: The line of each problem, parallel to ``problems``.
        file: The path or hub id as the user gave it.
    """

    problems: tuple[Problem, ...]
    bad_rows: tuple[BadRow, ...]
    lines: tuple[int, ...]
    file: str


def read_problems(
    path: str,
    split: Split,
    columns: ColumnChoice = RECOGNISE_ALL,
    *,
    system_prompt: str | None = None,
    on_bad_row: OnBadRow = "stop",
) -> ProblemSet:
    """Read a file or hub dataset as problems.

    Args:
        path: A .jsonl, .ndjson, .json, .parquet or .csv file, or ``org/name[:config][:split]``.
        split: What the problems are for.
        columns: Columns that the user names; the others are recognised.
        system_prompt: Put before every prompt that has no system message. Ids do not depend on it.
        on_bad_row: Raise at the first faulty row, or leave such rows out and say so.

    Raises:
        ProblemsError: The file, its columns or, with ``stop``, one of its rows cannot be used.
    """
    gate = RowGate(path, on_bad_row)
    rows = _readable(read_rows(path), gate)
    if not rows:
        return problem_set([], gate.bad_rows, path)
    resolved = resolve_columns([row.record for row in rows], columns, path)
    located: dict[str, tuple[int, Problem]] = {}
    for row in rows:
        try:
            problem = parse_problem(row.record, resolved, split, system_prompt)
            if problem.problem_id in located:
                first_line, _ = located[problem.problem_id]
                raise _duplicate(problem.problem_id, first_line, row.line, resolved)
            located[problem.problem_id] = (row.line, problem)
        except RowError as fault:
            gate.refuse(row.line, row.record, fault)
    return problem_set(list(located.values()), gate.bad_rows, path)


def problem_set(located: Sequence[tuple[int, Problem]], bad_rows: Sequence[BadRow], file: str) -> ProblemSet:
    """Return the set of problems, given with their lines, or raise `ProblemsError` if there are none."""
    ordered = tuple(sorted(bad_rows, key=lambda bad: bad.line))
    if not located:
        first = ordered[0]
        raise ProblemsError(
            f"{file}: expected at least one usable problem",
            f"all {len(ordered)} rows were left out; line {first.line}: {first.reason}",
            "Correct the file, or name its columns.",
        )
    lines, problems = zip(*located, strict=True)
    return ProblemSet(problems, ordered, lines, file)


def _readable(rows: Sequence[Row], gate: RowGate) -> list[Row]:
    readable = []
    for row in rows:
        if row.fault is None:
            readable.append(row)
        else:
            gate.refuse(row.line, row.record, row.fault)
    return readable


def _duplicate(problem_id: str, first_line: int, line: int, columns: Columns) -> RowError:
    where = f"lines {first_line} and {line}"
    if columns.id is None:
        return RowError("each problem once", f"{where} have the same prompt and answer", "Remove one of them")
    return RowError(
        f"an id of its own in column {columns.id!r}",
        f"{where} both have {problem_id!r}",
        "Make the ids unique, name another --id-column, take ids from content with --id-column ''",
    )
