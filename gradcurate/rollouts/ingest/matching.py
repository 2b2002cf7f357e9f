"""Which problem a dumped rollout answers.

By the pool's id where the dump carries it, else by the prompt: the same tokens, the same messages,
or the same text once special tokens are gone, which is what most dumps keep. A prompt that several
problems have is ambiguous, and its rollouts are left out.
"""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradcurate.policies.prompts import prompt_text
from gradcurate.problems.problem import Message, Problem
from gradcurate.rollouts.ingest.dumped_rollout import DumpedRollout
from gradcurate.rollouts.rollout import PromptedProblem

Key = tuple[str, Hashable]


@dataclass(frozen=True)
class Matches:
    """Dumped rollouts by the problem they answer.

    Attributes:
        of_problem: By index of the problem, in the order of the dump.
        unmatched: Those that no problem fits.
        ambiguous: Those that several problems fit.
        unusable: Those without one response or without its text.
    """

    of_problem: dict[int, list[DumpedRollout]] = field(default_factory=lambda: defaultdict(list))
    unmatched: list[DumpedRollout] = field(default_factory=list)
    ambiguous: list[DumpedRollout] = field(default_factory=list)
    unusable: list[DumpedRollout] = field(default_factory=list)

    @property
    def matched(self) -> int:
        """Return how many rollouts were matched."""
        return sum(map(len, self.of_problem.values()))

    def lost(self) -> dict[str, list[DumpedRollout]]:
        """Return the others, by reason."""
        return {"unmatched": self.unmatched, "ambiguous": self.ambiguous, "unusable": self.unusable}


def match_rollouts(
    rollouts: Iterable[DumpedRollout],
    problems: Sequence[Problem],
    prompted: Sequence[PromptedProblem],
    tokenizer: Any,
) -> Matches:
    """Match rollouts to problems.

    Args:
        rollouts: The dump.
        problems: Pool and validation.
        prompted: The same, as token ids.
        tokenizer: The policy's.
    """
    index: dict[Key, list[int]] = defaultdict(list)
    for number, (problem, asked) in enumerate(zip(problems, prompted, strict=True)):
        for key in set(_problem_keys(problem, asked, tokenizer)):
            index[key].append(number)
    matches = Matches()
    for rollout in rollouts:
        _place(rollout, index, matches, tokenizer)
    return matches


def _place(rollout: DumpedRollout, index: dict[Key, list[int]], matches: Matches, tokenizer: Any) -> None:
    if not _has_tokens(rollout, tokenizer):
        matches.unusable.append(rollout)
        return
    found = next((index[key] for key in _rollout_keys(rollout, tokenizer) if key in index), [])
    if len(found) == 1:
        matches.of_problem[found[0]].append(rollout)
    else:
        (matches.ambiguous if found else matches.unmatched).append(rollout)


def _has_tokens(rollout: DumpedRollout, tokenizer: Any) -> bool:
    """Tell whether there is a response of a token at least; an empty one is its end alone."""
    ends = rollout.completion == "" and tokenizer.eos_token_id is not None
    return bool(rollout.completion_token_ids or rollout.completion or ends)


def _problem_keys(problem: Problem, asked: PromptedProblem, tokenizer: Any) -> Iterator[Key]:
    yield "id", problem.problem_id
    yield "tokens", asked.prompt_token_ids
    yield _messages_key(problem.prompt)
    yield _text_key(prompt_text(problem))
    yield _text_key(tokenizer.decode(asked.prompt_token_ids, skip_special_tokens=True))
    yield _text_key(tokenizer.decode(asked.prompt_token_ids))


def _rollout_keys(rollout: DumpedRollout, tokenizer: Any) -> Iterator[Key]:
    """Yield what may identify the problem, the surest first."""
    if rollout.problem_id is not None:
        yield "id", rollout.problem_id
    if rollout.prompt_token_ids is not None:
        yield "tokens", tuple(rollout.prompt_token_ids)
        yield _text_key(tokenizer.decode(rollout.prompt_token_ids, skip_special_tokens=True))
    if rollout.messages is not None:
        yield _messages_key(rollout.messages)
    if rollout.prompt_text is not None:
        yield _text_key(rollout.prompt_text)


def _messages_key(messages: Sequence[Message]) -> Key:
    return "messages", json.dumps([[m["role"], m["content"]] for m in messages])


def _text_key(text: str) -> Key:
    return "text", text.strip()
