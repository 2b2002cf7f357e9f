"""Completions of unfinished batches, one JSON line each, so that a stopped engine loses none.

For engines that draw random numbers of their own: what they have sampled cannot be sampled again. One
file a batch, ``rollouts/.<shard>.<digest>.jsonl``, named by what its rows depend on, and removed once the
shard is written. Lines begin with the line break: one that a crash cut short spoils no other.
"""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import final

from gradcurate.errors import EngineError
from gradcurate.rollouts.batches import Batch, shard_path
from gradcurate.rollouts.engines.background import in_background
from gradcurate.rollouts.rollout import Completion, PromptedProblem

Request = tuple[PromptedProblem, int]
"""A problem, and which of its rollouts is asked for."""

Keep = Callable[[Request, Completion], None]
"""What a completion is given to as soon as it is there."""

Stream = Callable[[Sequence[Request], Keep], None]
"""Asks for completions, and returns when all have come."""


@final
class Journal:
    """The files of one rollout stage.

    Args:
        folder: Where the shards go.
        digest: Of all that completions depend on.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest

    def read(self, batch: Batch) -> dict[Request, Completion]:
        """Return what an earlier process has left of a batch."""
        path = self._path_of(batch)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        by_id = {problem.problem_id: problem for problem in batch}
        return dict(found for line in lines if (found := _parsed(line, by_id)))

    def append(self, batch: Batch, request: Request, completion: Completion) -> None:
        """Keep one completion."""
        problem, rollout = request
        record = {"problem_id": problem.problem_id, "rollout": rollout, **asdict(completion)}
        path = self._path_of(batch)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(record))

    def tidy(self) -> None:
        """Remove what is of no use: completions of other settings, or of a shard that is written."""
        for path in self._folder.glob(".*.jsonl"):
            stem, _, digest = path.stem[1:].rpartition(".")
            if digest != self._digest or (self._folder / f"{stem}.parquet").exists():
                path.unlink()

    def remove(self, batch: Batch) -> None:
        """Forget a batch whose shard is written."""
        self._path_of(batch).unlink(missing_ok=True)

    def _path_of(self, batch: Batch) -> Path:
        shard = shard_path(self._folder, batch)
        return shard.with_name(f".{shard.stem}.{self._digest}.jsonl")


def _parsed(line: str, by_id: dict[str, PromptedProblem]) -> tuple[Request, Completion] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    request = by_id[record.pop("problem_id")], record.pop("rollout")
    logprobs = record.pop("logprobs")
    token_ids = tuple(record.pop("token_ids"))
    return request, Completion(token_ids, None if logprobs is None else tuple(logprobs), **record)


def complete_batches(
    batches: Sequence[Batch], group: int, journal: Journal, stream: Stream, stop: Callable[[], None]
) -> Generator[tuple[Batch, list[Completion]], None, None]:
    """Yield each batch when its last completion has come, going on from what the journal has.

    Args:
        batches: What is asked.
        group: Rollouts a problem.
        journal: Keeps a completion when it comes, whatever the consumer is doing.
        stream: Asks for what the journal lacks.
        stop: Makes the stream end.

    Raises:
        EngineError: From the stream, with how many rollouts are kept.
    """
    journal.tidy()
    wanted = {batch: [(p, rollout) for p in batch for rollout in range(group)] for batch in batches}
    found = {batch: journal.read(batch) for batch in batches}
    batch_of = {request: batch for batch, requests in wanted.items() for request in requests}
    for batch in [batch for batch in batches if len(found[batch]) == len(wanted[batch])]:
        yield batch, _in_order(wanted[batch], found.pop(batch))
    owed = [
        r for batch, requests in wanted.items() if batch in found for r in requests if r not in found[batch]
    ]
    kept = len(batch_of) - len(owed)

    def produce(deliver: Callable[[tuple[Request, Completion]], None]) -> None:
        def keep(request: Request, completion: Completion) -> None:
            journal.append(batch_of[request], request, completion)
            deliver((request, completion))

        stream(owed, keep)

    try:
        for request, completion in in_background(produce, stop) if owed else ():
            batch = batch_of[request]
            kept += 1
            found[batch][request] = completion
            if len(found[batch]) == len(wanted[batch]):
                yield batch, _in_order(wanted[batch], found.pop(batch))
    except EngineError as error:
        raise EngineError(
            error.expected,
            f"{error.received}; {kept} of the {len(batch_of)} rollouts asked of it are kept",
            f"{error.remedy} The same command then goes on from there.",
        ) from error


def _in_order(requests: Sequence[Request], found: dict[Request, Completion]) -> list[Completion]:
    return [found[request] for request in requests]
