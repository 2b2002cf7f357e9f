"""Reference answers as rows of sketches: what the policy would be taught if it were shown the answer.

A reference answer is a rollout that nobody sampled, number `REFERENCE` of its problem. Its gradient has no
noise of sampling, and there is one even where the policy never succeeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradcurate.errors import ProblemsError
from gradcurate.policies.prompts import render_answer
from gradcurate.problems.problem import Problem
from gradcurate.sketches.live_rollouts import REFERENCE, LiveRollout
from gradcurate.suggestion import choose_from


@dataclass(frozen=True)
class ReferenceAnswers:
    """The token ids of reference answers, by problem, each after its prompt's.

    Attributes:
        prompts: The prompts.
        answers: The answers; a problem without one, or with one that does not fit the context, has none.
    """

    prompts: Mapping[str, Sequence[int]]
    answers: Mapping[str, Sequence[int]]

    def rollouts(self, problems: Iterable[Problem], weights: Mapping[str, float]) -> list[LiveRollout]:
        """Return the rows of some problems, with their weights in the direction; 0 where none is given."""
        return [
            LiveRollout(
                problem_id=problem.problem_id,
                rollout=REFERENCE,
                split=problem.split,
                prompt=self.prompts[problem.problem_id],
                completion=self.answers[problem.problem_id],
                weight=weights.get(problem.problem_id, 0.0),
            )
            for problem in problems
            if problem.problem_id in self.answers
        ]


def reference_answers(
    problems: Sequence[Problem],
    prompts: Mapping[str, Sequence[int]],
    tokenizer: Any,
    end: int | None,
    column: str | None,
    context_tokens: int | None,
) -> ReferenceAnswers:
    """Render the reference answers of one split's problems.

    Args:
        problems: The problems.
        prompts: Their prompts' token ids.
        tokenizer: The policy's.
        end: The token that ends a response, where prompts are chats; None where they are plain text.
        column: The column of the answers; None for the answers that rewards compare with.
        context_tokens: The policy's context.

    Raises:
        ProblemsError: A problem has no such column.
    """
    answers = {}
    for problem in problems:
        text, prompt = _text(problem, column), prompts[problem.problem_id]
        ids = render_answer(tokenizer, text, problem.prompt[-1]["content"], end) if text else []
        if ids and (context_tokens is None or len(prompt) + len(ids) <= context_tokens):
            answers[problem.problem_id] = ids
    return ReferenceAnswers(prompts, answers)


def _text(problem: Problem, column: str | None) -> str:
    if column is None:
        return problem.answer
    if column not in problem.row:
        raise ProblemsError(
            "--gold-column must name a column of every problem",
            f"problem {problem.problem_id} of the {problem.split} has no {column!r}",
            choose_from(column, problem.row),
        )
    return str(problem.row[column] or "")
