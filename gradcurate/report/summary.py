"""What a run found, in numbers a person reads at a glance: the ranking, its sources, its spread."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradcurate.errors import SettingsError
from gradcurate.problems.problem import Problem
from gradcurate.report.checks import Checks
from gradcurate.scores.confidence import Confidence
from gradcurate.scores.groups import Group
from gradcurate.suggestion import choose_from

EXCERPT_CHARACTERS = 60


@dataclass(frozen=True)
class RankedProblem:
    """One line of the ranking."""

    rank: int
    problem_id: str
    source: str
    score: float
    score_low: float | None
    score_high: float | None
    pass_rate: float | None
    prompt: str
    answer: str


@dataclass(frozen=True)
class PartSummary:
    """Problems that share a value of a column.

    Attributes:
        column: The column.
        value: Its value, as text.
        problems: How many problems have it.
        scored: How many of those have a score.
        mean_score: The mean of their scores, or None.
        mean_pass_rate: The mean pass rate over all of them, or None.
    """

    column: str
    value: str
    problems: int
    scored: int
    mean_score: float | None
    mean_pass_rate: float | None


@dataclass(frozen=True)
class Summary:
    """What a run found.

    Attributes:
        run: The run directory.
        pool_statuses: Pool problems by status.
        validation_statuses: Validation problems by status.
        bad_rows: How many rows of the files were set aside.
        failed_rollouts: How many rollouts, of either split, have no reward.
        pass_rates: Pool problems by pass rate.
        parts: Mean scores by source, and by any other column asked for.
        checks: What the run checked of itself.
        confidence: How far the scores can be believed.
        best: The head of the ranking.
        worst: Its tail.
    """

    run: str
    pool_statuses: Mapping[str, int]
    validation_statuses: Mapping[str, int]
    bad_rows: int
    failed_rollouts: int
    pass_rates: Mapping[str, int]
    parts: tuple[PartSummary, ...]
    checks: Checks
    confidence: Confidence
    best: tuple[RankedProblem, ...]
    worst: tuple[RankedProblem, ...]


def summarise(
    run: str,
    problems: Sequence[Problem],
    groups: Iterable[Group],
    validation_statuses: Mapping[str, int],
    scores: Sequence[Mapping[str, Any]],
    bad_rows: int,
    checks: Checks,
    confidence: Confidence,
    columns: Sequence[str],
    shown: int,
) -> Summary:
    """Summarise a run.

    Args:
        run: The run directory.
        problems: Pool and validation.
        groups: Their rewards.
        validation_statuses: Validation problems by status.
        scores: The rows of ``scores.parquet``, best first.
        bad_rows: How many rows of the files were set aside.
        checks: What the run checked of itself.
        confidence: How far the scores can be believed.
        columns: Columns of the original records to compare mean scores by, besides the source.
        shown: How many problems of the ranking's head and tail to keep.

    Raises:
        SettingsError: No problem of the pool has such a column.
    """
    groups = list(groups)
    by_id = {problem.problem_id: problem for problem in problems if problem.split == "pool"}
    _require_columns(columns, by_id.values())
    shared = shared_beginning(by_id.values())
    ranked = [_ranked(row, by_id[row["problem_id"]], shared) for row in scores if row["rank"] is not None]
    return Summary(
        run=run,
        pool_statuses=dict(Counter(row["status"] for row in scores)),
        validation_statuses=validation_statuses,
        bad_rows=bad_rows,
        failed_rollouts=sum(group.failed for group in groups),
        pass_rates=_pass_rates(scores),
        parts=(
            *_parts("source", scores, lambda row: row["source"]),
            *(
                part
                for column in columns
                for part in _parts(column, scores, lambda row, c=column: by_id[row["problem_id"]].row.get(c))  # type: ignore[misc]
            ),
        ),
        checks=checks,
        confidence=confidence,
        best=tuple(ranked[:shown]),
        worst=tuple(ranked[max(shown, len(ranked) - shown) :]),
    )


def _require_columns(columns: Iterable[str], pool: Iterable[Problem]) -> None:
    known = sorted({name for problem in pool for name in problem.row})
    for column in columns:
        if column not in known:
            raise SettingsError(
                "--by must name a column of the pool", f"{column!r} is not one", choose_from(column, known)
            )


def shared_beginning(problems: Iterable[Problem]) -> int:
    """Return how long the lines are that every prompt begins with: instructions, or examples."""
    texts = [problem.prompt[-1]["content"] for problem in problems]
    first, last = min(texts), max(texts)
    if first == last:
        return 0
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first.rfind("\n", 0, shared) + 1


def excerpt(problem: Problem, shared: int) -> str:
    """Return the beginning of a question, on one line, without what all have in common."""
    text = " ".join(problem.prompt[-1]["content"][shared:].split())
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…"


def _ranked(row: Mapping[str, Any], problem: Problem, shared: int) -> RankedProblem:
    return RankedProblem(
        row["rank"],
        problem.problem_id,
        problem.source,
        row["score"],
        row["score_low"],
        row["score_high"],
        row["pass_rate"],
        excerpt(problem, shared),
        problem.answer,
    )


def _parts(
    column: str, scores: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], Any]
) -> list[PartSummary]:
    rows_by_value: dict[str, list[Mapping[str, Any]]] = {}
    for row in scores:
        rows_by_value.setdefault(str(value(row)), []).append(row)
    return [_part(column, text, rows) for text, rows in sorted(rows_by_value.items(), key=_by_size)]


def _by_size(part: tuple[str, Any]) -> tuple[bool, float, str]:
    """Order numbers by size, and before any other text."""
    try:
        number = float(part[0])
    except ValueError:
        number = math.nan
    return not math.isfinite(number), number if math.isfinite(number) else 0.0, part[0]


def _part(column: str, value: str, rows: Sequence[Mapping[str, Any]]) -> PartSummary:
    scores = [row["score"] for row in rows if row["score"] is not None]
    pass_rates = [row["pass_rate"] for row in rows if row["pass_rate"] is not None]
    return PartSummary(
        column=column,
        value=value,
        problems=len(rows),
        scored=len(scores),
        mean_score=statistics.fmean(scores) if scores else None,
        mean_pass_rate=statistics.fmean(pass_rates) if pass_rates else None,
    )


def _pass_rates(scores: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    edges = {"0": 0.0, "up to 1/4": 0.25, "up to 1/2": 0.5, "up to 3/4": 0.75, "below 1": 1 - 1e-9, "1": 1.0}
    counts = dict.fromkeys(edges, 0)
    for row in scores:
        if row["pass_rate"] is not None:
            counts[next(name for name, edge in edges.items() if row["pass_rate"] <= edge)] += 1
    return counts
