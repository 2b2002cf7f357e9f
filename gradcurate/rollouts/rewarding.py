"""The arrow from rollouts to rewards: completions of known problems in, outcomes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gradcurate.policies.prompts import prompt_text
from gradcurate.problems.problem import Problem
from gradcurate.rewards import RewardOutcome, RewardPool, RewardRequest
from gradcurate.rollouts.rollout import Completion, PromptedProblem


@dataclass(frozen=True)
class Answer:
    """A completion of a problem, as tokens and as text.

    Attributes:
        problem: What was asked.
        completion: What was sampled.
        text: The completion without special tokens.
        raw_text: The completion with them.
        prompt_text: The prompt with them.
    """

    problem: PromptedProblem
    completion: Completion
    text: str
    raw_text: str
    prompt_text: str


ScoreCompletions = Callable[[Sequence[Answer]], list[RewardOutcome]]
"""Rewards for answers, in order."""


def completion_scorer(
    pool: RewardPool, problems: Sequence[Problem], prompt_format: Literal["chat", "text"]
) -> ScoreCompletions:
    """Return a function that rewards completions of these problems in a pool of workers."""
    by_id = {(problem.split, problem.problem_id): problem for problem in problems}

    def score_completions(answers: Sequence[Answer]) -> list[RewardOutcome]:
        asked = [by_id[answer.problem.split, answer.problem.problem_id] for answer in answers]
        return pool.score(
            [
                reward_request(problem, answer, prompt_format)
                for problem, answer in zip(asked, answers, strict=True)
            ]
        )

    return score_completions


def reward_request(problem: Problem, answer: Answer, prompt_format: Literal["chat", "text"]) -> RewardRequest:
    """Ask for the reward of a completion, with all that a trainer would pass for this problem.

    ``extra_info`` is the record's own ``extra_info`` where it has one, else the whole record.
    """
    extra = problem.row.get("extra_info")
    return RewardRequest(
        data_source=problem.source,
        solution_str=answer.text,
        ground_truth=problem.answer,
        extra_info=extra if isinstance(extra, dict) else problem.row,
        row=problem.row,
        prompt=list(problem.prompt) if prompt_format == "chat" else prompt_text(problem),
        prompt_text=answer.prompt_text,
        raw_completion=answer.raw_text,
        prompt_token_ids=answer.problem.prompt_token_ids,
        completion_token_ids=answer.completion.token_ids,
    )
