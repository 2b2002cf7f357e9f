"""Likely wrong answers, for a person to check.

Two signs of one: the problem's gradient points against the validation direction with confidence, and another
problem asks the same and is answered otherwise. Neither proves anything.

Of many problems some point against the direction by chance. The list is as long as lets no more than a
given share of it be such, on average (Benjamini and Hochberg, 1995).
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations, product
from pathlib import Path
from typing import Any

from gradcurate.problems.problem import Problem
from gradcurate.report.summary import excerpt, shared_beginning
from gradcurate.store.atomic import replacing

SAME_WORDS = 0.7
"""The share of words that two wordings of a question have in common, at least; of numbers and signs, all."""
TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]")
PUNCTUATION = frozenset(".,;:?!'\"`$\\")
MOST_WORDINGS = 1000
"""Of questions with the same numbers and signs: more are compared word for word only."""


@dataclass(frozen=True)
class Suspect:
    """A problem to check.

    Attributes:
        problem_id: Which.
        source: Where it is from.
        reason: ``against``: its gradient points against the direction. ``conflict``: others that ask the same
            are answered otherwise.
        answer: Its answer.
        prompt: The beginning of its question.
        score: Its score.
        p_against: How probable a derivative so low would be by chance.
        pass_rate: The share of rollouts that gave the answer.
        conflicts: The ids of those others.
    """

    problem_id: str
    source: str
    reason: str
    answer: str
    prompt: str
    score: float | None
    p_against: float | None
    pass_rate: float | None
    conflicts: str = ""


def find_suspects(
    problems: Iterable[Problem], scores: Sequence[Mapping[str, Any]], false_share: float
) -> tuple[Suspect, ...]:
    """Return the suspects of a pool, the surest first, those of conflicting answers last.

    Args:
        problems: Pool and validation.
        scores: The rows of ``scores.parquet``.
        false_share: The share of those that point against the direction which may do so by chance.
    """
    by_id = {problem.problem_id: problem for problem in problems if problem.split == "pool"}
    shared = shared_beginning(by_id.values())
    rows = {row["problem_id"]: row for row in scores}
    against = [
        _suspect(by_id[problem_id], rows[problem_id], "against", shared)
        for problem_id in _against(scores, false_share)
    ]
    conflicting = [
        _suspect(by_id[problem_id], rows[problem_id], "conflict", shared, " ".join(others))
        for problem_id, others in sorted(_conflicts(by_id.values(), shared).items())
    ]
    return (*against, *conflicting)


def write_suspects(path: Path, suspects: Iterable[Suspect]) -> None:
    """Write suspects as CSV."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Suspect)])
        writer.writeheader()
        writer.writerows(asdict(suspect) for suspect in suspects)


def _against(scores: Sequence[Mapping[str, Any]], false_share: float) -> list[str]:
    tested = sorted((row["p_against"], row["problem_id"]) for row in scores if row["p_against"] is not None)
    passing = [n for n, (p, _) in enumerate(tested, start=1) if p <= false_share * n / len(tested)]
    return [problem_id for _, problem_id in tested[: max(passing, default=0)]]


def _conflicts(problems: Iterable[Problem], shared: int) -> dict[str, list[str]]:
    """Return the problems whose question another answers otherwise, with the ids of those."""
    alike: dict[tuple[str, ...], list[tuple[Problem, frozenset[str]]]] = defaultdict(list)
    for problem in problems:
        tokens = TOKEN.findall(problem.prompt[-1]["content"][shared:].casefold())
        words = frozenset(token for token in tokens if token.isalpha())
        rest = tuple(token for token in tokens if not token.isalpha() and token not in PUNCTUATION)
        alike[rest].append((problem, words))
    found: dict[str, list[str]] = defaultdict(list)
    for group in alike.values():
        for one, other in _same_questions(group):
            if _plain(one.answer) != _plain(other.answer):
                found[one.problem_id].append(other.problem_id)
                found[other.problem_id].append(one.problem_id)
    return found


def _same_questions(group: Iterable[tuple[Problem, frozenset[str]]]) -> Iterator[tuple[Problem, Problem]]:
    """Yield the pairs that use the same words, or nearly so."""
    wordings: dict[frozenset[str], list[Problem]] = defaultdict(list)
    for problem, words in group:
        wordings[words].append(problem)
    for problems in wordings.values():
        yield from combinations(problems, 2)
    if len(wordings) <= MOST_WORDINGS:
        for words, others in combinations(wordings, 2):
            if _same_words(words, others):
                yield from product(wordings[words], wordings[others])


def _same_words(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= SAME_WORDS * len(one | other)


def _plain(answer: str) -> str:
    return "".join(answer.casefold().split())


def _suspect(
    problem: Problem, row: Mapping[str, Any], reason: str, shared: int, conflicts: str = ""
) -> Suspect:
    return Suspect(
        problem_id=problem.problem_id,
        source=problem.source,
        reason=reason,
        answer=problem.answer,
        prompt=excerpt(problem, shared),
        score=row["score"],
        p_against=row["p_against"],
        pass_rate=row["pass_rate"],
        conflicts=conflicts,
    )
