"""Selected problems, and what every export says of them.

An export is in the order of the ranks. Records are taken as the run directory gives them back (see
`gradcurate.problems.json_text`), so that an export does not depend on whether its problems were just
read or come from a resumed run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from gradcurate.policies.prompts import prompt_text
from gradcurate.problems.json_text import json_text
from gradcurate.problems.problem import Message, Problem

PromptFormat = Literal["chat", "text"]

MESSAGES: pa.DataType = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

RANK = "gradcurate_rank"
SCORE = "gradcurate_score"
NESTED = "gradcurate"  # the one key that a JSON Lines export adds

_OF_AN_EARLIER_EXPORT = (RANK, SCORE, NESTED)


@dataclass(frozen=True)
class SelectedProblem:
    """A problem that was chosen, with its place in the ranking."""

    problem: Problem
    rank: int
    score: float


def by_rank(selected: Sequence[SelectedProblem]) -> list[SelectedProblem]:
    """Return the selection in the order of its ranks."""
    return sorted(selected, key=lambda chosen: chosen.rank)


def original_record(problem: Problem) -> dict[str, Any]:
    """Return the record that a problem came from, without what an earlier export added to it."""
    record: dict[str, Any] = json.loads(json_text(problem.row))
    return {name: value for name, value in record.items() if name not in _OF_AN_EARLIER_EXPORT}


def asked_prompt(problem: Problem, prompt_format: PromptFormat) -> list[Message] | str:
    """Return the prompt as the policy was asked: its messages, or one text."""
    return list(problem.prompt) if prompt_format == "chat" else prompt_text(problem)


def identity_columns(selected: Sequence[SelectedProblem]) -> dict[str, list[Any]]:
    """Return the columns by which a row is traced back to its run."""
    return {
        "problem_id": [chosen.problem.problem_id for chosen in selected],
        RANK: [chosen.rank for chosen in selected],
        SCORE: [chosen.score for chosen in selected],
    }
