from collections.abc import Callable
from typing import Any

import pytest

from gradcurate.exports.rows import SelectedProblem
from gradcurate.problems.columns import RECOGNISE_ALL, resolve_columns
from gradcurate.problems.parsing import parse_problem

Select = Callable[..., list[SelectedProblem]]


@pytest.fixture
def select() -> Select:
    """Parse records as a pool would be, and rank them in their order."""

    def selected(*records: dict[str, Any], system_prompt: str | None = None) -> list[SelectedProblem]:
        columns = resolve_columns(records, RECOGNISE_ALL, "pool.jsonl")
        problems = [parse_problem(record, columns, "pool", system_prompt) for record in records]
        return [
            SelectedProblem(problem, rank, 1 / (1 + rank)) for rank, problem in enumerate(problems, start=1)
        ]

    return selected
