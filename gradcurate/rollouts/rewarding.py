"""The arrow from rollouts to rewards: completions of known problems in, outcomes out."""

from collections.abc import Callable, Sequence

from gradcurate.problems.problem import Problem
from gradcurate.rewards import RewardOutcome, RewardPool, RewardRequest
from gradcurate.rollouts.rollout import PromptedProblem

ScoreCompletions = Callable[[Sequence[tuple[PromptedProblem, str]]], list[RewardOutcome]]
"""Rewards for (problem, completion text) pairs, in order."""


def completion_scorer(pool: RewardPool, problems: Sequence[Problem]) -> ScoreCompletions:
    """Return a function that rewards completions of these problems in a pool of workers."""
    by_id = {(problem.split, problem.problem_id): problem for problem in problems}

    def score_completions(asked: Sequence[tuple[PromptedProblem, str]]) -> list[RewardOutcome]:
        requests = [
            reward_request(by_id[prompted.split, prompted.problem_id], text) for prompted, text in asked
        ]
        return pool.score(requests)

    return score_completions


def reward_request(problem: Problem, completion: str) -> RewardRequest:
    """Ask for the reward of a completion, with what verl would pass for this problem.

    ``extra_info`` is the record's own ``extra_info`` where it has one, else the whole record.
    """
    extra = problem.row.get("extra_info")
    return RewardRequest(
        data_source=problem.source,
        solution_str=completion,
        ground_truth=problem.answer,
        extra_info=extra if isinstance(extra, dict) else problem.row,
    )
