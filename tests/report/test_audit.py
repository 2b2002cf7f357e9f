"""Answers to check: what points against the direction with confidence, and what contradicts another."""

import pytest

from gradcurate.problems.problem import Problem
from gradcurate.report import audit
from gradcurate.report.audit import find_suspects


def problem(problem_id, prompt, answer):
    message = {"role": "user", "content": prompt}
    return Problem(problem_id, "pool", "source", (message,), True, answer, {})


def row(problem_id, p_against=None):
    return {"problem_id": problem_id, "score": -0.1, "p_against": p_against, "pass_rate": 0.5}


def conflicts(*asked):
    """The ids of problems (0, 1, …) that others contradict, from prompts and answers."""
    problems = [problem(str(n), prompt, answer) for n, (prompt, answer) in enumerate(asked)]
    found = find_suspects(problems, [row(p.problem_id) for p in problems], 0.2)
    assert {suspect.reason for suspect in found} <= {"conflict"}
    return {suspect.problem_id: suspect.conflicts for suspect in found}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("What is 2 + 3?", "what is 2+3", True),
        ("What is 2 + 3?", "What is 2 * 3?", False),
        ("What is 2 + 3?", "What is 3 + 2?", False),
        ("What is (2 + 3) * 4?", "What is 2 + 3 * 4?", False),
        ("Ann has 3 red apples and eats 1. How many?", "Ann has 3 green apples and eats 1. How many?", True),
        ("Ann has 3 apples and eats 1. How many?", "Of 3 trains 1 is late. What share is on time?", False),
    ],
)
def test_problems_that_ask_the_same_and_are_answered_otherwise_contradict_each_other(first, second, same):
    assert conflicts((first, "5"), (second, "6")) == ({"0": "1", "1": "0"} if same else {})
    assert conflicts((first, "5"), (second, " 5 ")) == {}


def test_of_too_many_wordings_only_the_same_are_compared(monkeypatch):
    asked = [("one two three four", "a"), ("one two three four", "b"), ("one two three four five", "c")]
    assert conflicts(*asked).keys() == {"0", "1", "2"}
    monkeypatch.setattr(audit, "MOST_WORDINGS", 1)
    assert conflicts(*asked).keys() == {"0", "1"}


def test_the_list_is_as_long_as_chance_allows():
    """Benjamini and Hochberg: of m tested, the k-th least p is at most k / m times the share."""
    probabilities = {"a": 0.001, "b": 0.03, "c": 0.04, "d": 0.5, "e": None}
    problems = [problem(p, f"question {p}", p) for p in probabilities]
    rows = [row(p, value) for p, value in probabilities.items()]
    assert [s.problem_id for s in find_suspects(problems, rows, 0.2)] == ["a", "b", "c"]
    assert [s.problem_id for s in find_suspects(problems, rows, 0.01)] == ["a"]
    assert find_suspects(problems, rows, 0.001) == ()
