"""What a gradient pass is owed: the rollouts of groups with a learning signal, as rows of sketches.

A row is one rollout, or, for ``granularity="problem"``, all of a problem's: their weighted sum.
Both have the same interface, `LiveRow`.
"""

import itertools
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from gradcurate.problems.problem import Split

TOKEN_COLUMNS = [
    "problem_id",
    "rollout",
    "split",
    "prompt_token_ids",
    "completion_token_ids",
    "sampling_logprobs",
]
REFERENCE = -1
"""The number of a problem's reference answer among its rollouts."""
CANCELLED = 1e-9  # weights of order one, summed in float64, cancel to less


@dataclass(frozen=True)
class LiveRollout:
    """One rollout of a scored group.

    Attributes:
        problem_id: Whose rollout it is.
        rollout: Its number.
        split: Of which split.
        prompt: The prompt's token ids.
        completion: The completion's token ids.
        weight: Its weight in the problem's gradient.
        sampling_logprobs: The sampler's log-probability of each token of the completion, if known.
    """

    problem_id: str
    rollout: int
    split: Split
    prompt: Sequence[int]
    completion: Sequence[int]
    weight: float
    sampling_logprobs: Sequence[float] | None = None

    @property
    def of_reference(self) -> bool:
        """Say whether it is the reference answer, which nobody sampled."""
        return self.rollout == REFERENCE

    @property
    def response_tokens(self) -> int:
        """Return the length of the completion."""
        return len(self.completion)

    @property
    def tokens(self) -> int:
        """Return the length of prompt and completion."""
        return len(self.prompt) + len(self.completion)

    @property
    def identity(self) -> tuple[str, int]:
        """Return what no other rollout of the split has."""
        return self.problem_id, self.rollout


@dataclass(frozen=True)
class LiveGroup:
    """Rollouts of one problem that make one row, the weighted sum of their gradients."""

    rollouts: tuple[LiveRollout, ...]

    @property
    def problem_id(self) -> str:
        """Return whose rollouts they are."""
        return self.rollouts[0].problem_id

    @property
    def rollout(self) -> None:
        """Return no number: the row is of them all."""
        return

    @property
    def of_reference(self) -> bool:
        """Return false: reference answers are rows of their own."""
        return False

    @property
    def split(self) -> Split:
        """Return of which split."""
        return self.rollouts[0].split

    @property
    def weight(self) -> float:
        """Return the row's weight in the problem's gradient, which it is already."""
        return 1.0

    @property
    def sampling_logprobs(self) -> Sequence[float] | None:
        """Return the sampler's log-probabilities of all completions, one after the other, if known."""
        known = [r.sampling_logprobs for r in self.rollouts if r.sampling_logprobs is not None]
        complete = len(known) == len(self.rollouts)
        return list(itertools.chain.from_iterable(known)) if complete else None

    @property
    def response_tokens(self) -> int:
        """Return the length of all completions."""
        return sum(r.response_tokens for r in self.rollouts)

    @property
    def tokens(self) -> int:
        """Return the length of the prompt, once, and all completions."""
        return len(self.rollouts[0].prompt) + self.response_tokens

    @property
    def identity(self) -> tuple[str]:
        """Return what no other row of the split has."""
        return (self.problem_id,)


LiveRow = LiveRollout | LiveGroup


def live_rollouts(
    rollouts: pa.Table, split: Split, weights: Mapping[str, Mapping[int, float]]
) -> list[LiveRollout]:
    """Join one split's rollouts (with `TOKEN_COLUMNS`) with their weights; leave dead groups out.

    Token ids stay as compact as they are stored, for a pool can have billions of them.
    """
    mine = pc.and_(
        pc.equal(rollouts["split"], split),
        pc.is_in(rollouts["problem_id"], value_set=pa.array(weights, pa.string())),
    )
    rows = rollouts.filter(mine)
    ids, numbers = rows["problem_id"].to_pylist(), rows["rollout"].to_pylist()
    prompts, completions = (_arrays(rows[name], "i") for name in TOKEN_COLUMNS[3:5])
    logprobs = _arrays(rows[TOKEN_COLUMNS[5]], "f")
    return [
        LiveRollout(
            problem_id, rollout, split, prompt or (), completion or (), weights[problem_id][rollout], known
        )
        for problem_id, rollout, prompt, completion, known in zip(
            ids, numbers, prompts, completions, logprobs, strict=True
        )
        if rollout in weights[problem_id]
    ]


def live_groups(rollouts: Iterable[LiveRollout]) -> list[LiveGroup]:
    """Join each problem's rollouts into one row; equal completions pass once, with their summed weight.

    A problem is left out whose equal completions cancel, so that no gradient remains.
    """
    problems: dict[str, dict[tuple[int, ...], LiveRollout]] = {}
    for rollout in rollouts:
        distinct = problems.setdefault(rollout.problem_id, {})
        key = tuple(rollout.completion)
        before = distinct.get(key)
        distinct[key] = rollout if before is None else replace(before, weight=before.weight + rollout.weight)
    return [group for distinct in problems.values() for group in _without_cancelled(distinct.values())]


def _without_cancelled(rollouts: Collection[LiveRollout]) -> Iterator[LiveGroup]:
    kept = tuple(r for r in rollouts if abs(r.weight) > CANCELLED)
    if kept:
        yield LiveGroup(kept)


def _arrays(column: pa.ChunkedArray, typecode: Literal["i", "f"]) -> Iterator[Sequence[Any] | None]:
    """Yield each row of a list column as an array of C numbers, None where it is null."""
    numbers = pa.int32() if typecode == "i" else pa.float32()
    for chunk in column.chunks:
        values, known = chunk.values.cast(numbers).to_numpy(), chunk.is_valid().to_pylist()
        for (start, stop), there in zip(pairwise(chunk.offsets.to_pylist()), known, strict=True):
            yield array(typecode, values[start:stop].tobytes()) if there else None
