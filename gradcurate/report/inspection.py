"""One problem of a run: what was asked, what the policy answered, and why it ranks where it does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradcurate.errors import SettingsError
from gradcurate.problems.problem import Message, Problem, Split
from gradcurate.scores.groups import Group


@dataclass(frozen=True)
class InspectedRollout:
    """One rollout.

    Attributes:
        rollout: Its number.
        reward: What it earned, or None if its reward failed.
        reward_detail: What the reward said besides.
        tokens: Its length.
        finish_reason: ``stop`` or ``length``.
        weight: Its weight in the problem's gradient; None in a group without a signal.
        directional: Its derivative along the validation direction; None for validation problems.
        completion: Its text.
    """

    rollout: int
    reward: float | None
    reward_detail: dict[str, Any]
    tokens: int
    finish_reason: str
    weight: float | None
    directional: float | None
    completion: str


@dataclass(frozen=True)
class Inspection:
    """One problem.

    Attributes:
        problem_id: Its id.
        split: Of which split.
        source: Where it comes from.
        prompt: Its messages.
        answer: Its reference answer.
        status: Whether it has a learning signal, and if not, why.
        score: Its row of ``scores.parquet``; None before scoring, and for validation problems.
        rollouts: Its rollouts.
    """

    problem_id: str
    split: Split
    source: str
    prompt: tuple[Message, ...]
    answer: str
    status: str
    score: Mapping[str, Any] | None
    rollouts: tuple[InspectedRollout, ...]


def find_problem(problems: Sequence[Problem], problem_id: str) -> Problem:
    """Return the problem of an id, or of a prefix that only one id has.

    Raises:
        SettingsError: No problem, or more than one, matches.
    """
    exact = [problem for problem in problems if problem.problem_id == problem_id]
    matching = exact or [problem for problem in problems if problem.problem_id.startswith(problem_id)]
    if len(matching) == 1:
        return matching[0]
    raise SettingsError(
        "PROBLEM_ID must be the id of one problem of the run, or the beginning of one",
        f"{problem_id!r} matches {len(matching)}",
        "`gradcurate summary --run DIR` shows ids.",
    )


def inspect_problem(
    problem: Problem,
    group: Group,
    rollouts: Sequence[Mapping[str, Any]],
    weights: Mapping[int, float],
    directional: Mapping[int, float | None],
    score: Mapping[str, Any] | None,
) -> Inspection:
    """Put together what a run knows of one problem.

    Args:
        problem: The problem.
        group: Its rewards.
        rollouts: Its rows of the rollout shards.
        weights: Each live rollout's weight.
        directional: Each sketched rollout's derivative along the validation direction.
        score: Its row of the scores.
    """
    return Inspection(
        problem_id=problem.problem_id,
        split=problem.split,
        source=problem.source,
        prompt=problem.prompt,
        answer=problem.answer,
        status=score["status"] if score else group.status,
        score=score,
        rollouts=tuple(
            InspectedRollout(
                rollout=row["rollout"],
                reward=row["reward"],
                reward_detail=json.loads(row["reward_detail"]),
                tokens=len(row["completion_token_ids"]),
                finish_reason=row["finish_reason"],
                weight=weights.get(row["rollout"]),
                directional=directional.get(row["rollout"]),
                completion=row["completion"],
            )
            for row in sorted(rollouts, key=lambda row: row["rollout"])
        ),
    )
