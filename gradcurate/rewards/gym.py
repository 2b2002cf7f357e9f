r"""The ``reasoning_gym`` reward: the scorer of the generator that made the problem.

``extra_info`` is the pool's row, or the ``extra_info`` column of one: a ``metadata`` in either, a dict
or JSON text, goes to the scorer, and its ``source_dataset`` names the generator. Without it the last
part of the data source does (``reasoning_gym/chain_sum``).

The package's scorers expect the bare answer and take marks off for every letter around it. So if the
completion has ``<answer>...</answer>``, as the package's prompts ask, only the content of the last one
is scored. Without tags, the whole completion and the answer it states (the last ``\boxed{}``, else the
paragraph after the last "answer is" or "answer:", else the last line, without the full stop) are scored,
and the better of the two counts: "The answer is 12." is worth what "12" is, and a grid stays whole.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import reasoning_gym

from gradcurate.rewards.completion import tagged_answer

Scorer = Callable[[str, dict[str, Any]], float]

_STATED = (
    re.compile(r".*\\boxed\{([^{}]*)\}", re.DOTALL),
    re.compile(r".*answer\**(?:\s+is\b|\s*:)[:\s*]*(.+?)\s*(?:\n\s*\n|\Z)", re.DOTALL | re.IGNORECASE),
    re.compile(r"(?:.*\n)?(.*\S)\s*\Z", re.DOTALL),
)


def score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    """Return the package's own score of the completion, from 0 to 1.

    Raises:
        ValueError: If no generator is registered under the problem's name.
    """
    metadata = find_metadata(extra_info)
    scorer = _scorer(metadata.get("source_dataset") or data_source.rpartition("/")[2])
    entry = _entry(scorer, extra_info.get("question"), ground_truth, metadata)
    return max(_score_reading(scorer, reading, entry) for reading in readings(solution_str))


@cache
def _scorer(name: str) -> Scorer:
    scorer: Scorer = reasoning_gym.get_score_answer_fn(name)
    return scorer


def _entry(scorer: Scorer, question: str | None, answer: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the generator's entry, with tuples for lists if the scorer knows its own answer only so.

    JSON and Parquet turn tuples into lists, and a few scorers (arc_agi, rearc) compare with tuples.
    """
    entry = {"question": question, "answer": answer, "metadata": metadata}
    own_score = scorer(answer, entry)
    if own_score >= 1:
        return entry
    tupled = {**entry, "metadata": _with_tuples(metadata)}
    return tupled if scorer(answer, tupled) > own_score else entry


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def _score_reading(scorer: Scorer, reading: str, entry: dict[str, Any]) -> float:
    try:
        return float(scorer(reading, entry))
    # The scorer has read the reference answer without an error, so it is this text that is no answer.
    except ValueError:
        return 0.0


def find_metadata(extra_info: dict[str, Any]) -> dict[str, Any]:
    """Return the generator's metadata from a row or from its ``extra_info``, empty if it has none."""
    return _as_dict(extra_info.get("metadata")) or _as_dict(
        _as_dict(extra_info.get("extra_info")).get("metadata")
    )


def _as_dict(value: object) -> dict[str, Any]:
    decoded = json.loads(value) if isinstance(value, str) else value
    return decoded if isinstance(decoded, dict) else {}


def readings(completion: str) -> list[str]:
    """Return the texts that may stand for the completion's answer."""
    tagged = tagged_answer(completion)
    if tagged is not None:
        return [tagged]
    return [completion.strip(), _stated(completion)]


def _stated(completion: str) -> str:
    for pattern in _STATED:
        found = pattern.match(completion)
        if found:
            return found[1].strip().strip("*").removesuffix(".")
    return ""
