"""The rollout stage without sampling: a trainer's dump in, the same shards out.

Shards are cut as sampled ones are. A problem that the dump lacks has no rollouts, and so no score.
Rewards are the dump's own. Text is cut into tokens again, and where the trainer's limit did not end
it, it is given the end-of-sequence token that dumps of text lose: close to what was sampled, not
the same (``provenance`` is ``text``; ``tokens`` where the dump kept them).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradcurate.config import Settings
from gradcurate.errors import RolloutsError
from gradcurate.policies.stop_tokens import end_token_id
from gradcurate.problems.problem import Problem
from gradcurate.progress import Progress
from gradcurate.rollouts.batches import Batch, shard_path
from gradcurate.rollouts.ingest.dumped_rollout import DumpedRollout
from gradcurate.rollouts.ingest.dumps import read_dump
from gradcurate.rollouts.ingest.matching import Matches, match_rollouts
from gradcurate.rollouts.rollout import ROLLOUTS_SCHEMA, PromptedProblem
from gradcurate.store.atomic import replacing
from gradcurate.store.tables import Fingerprint, write_table

FEWEST_MATCHED = 0.9


@dataclass(frozen=True)
class IngestStage:
    """Everything that rows are made with.

    Attributes:
        problems: Pool and validation.
        prompted: The same, as token ids.
        tokenizer: The policy's.
        stop_token_ids: What ends its responses.
        settings: With ``dump`` given.
        folder: Where shards go.
        fingerprint: What the shards depend on.
        policy_fingerprint: The checkpoint's own part of it.
    """

    problems: Sequence[Problem]
    prompted: Sequence[PromptedProblem]
    tokenizer: Any
    stop_token_ids: frozenset[int]
    settings: Settings
    folder: Path
    fingerprint: Fingerprint
    policy_fingerprint: str


def run_ingest(stage: IngestStage, batches: Sequence[Batch], progress: Progress) -> Matches | None:
    """Write the shard of every batch, and return what became of the dump; None if nothing was owed.

    Raises:
        RolloutsError: Too little of the dump answers these problems.
    """
    owed = [batch for batch in batches if not shard_path(stage.folder, batch).exists()]
    if not owed:
        return None
    assert stage.settings.dump is not None
    dump = read_dump(stage.settings.dump)
    matches = match_rollouts(dump, stage.problems, stage.prompted, stage.tokenizer)
    if not stage.settings.allow_unmatched:
        require_matched(matches, stage.settings.dump)
    _require_validation(stage, matches)
    numbers = {(p.split, p.problem_id): number for number, p in enumerate(stage.problems)}
    with progress.task("ingest", total=len(batches), done=len(batches) - len(owed), unit="shards") as task:
        for batch in owed:
            found = [(p, matches.of_problem.get(numbers[p.split, p.problem_id], [])) for p in batch]
            table = pa.Table.from_pylist(
                [_row(stage, p, number, r) for p, of in found for number, r in enumerate(of)],
                schema=ROLLOUTS_SCHEMA,
            )
            write_table(shard_path(stage.folder, batch), table, "rollouts", stage.fingerprint)
            task.advance(1)
    return matches


def write_report(path: Path, matches: Matches) -> None:
    """Write how many rollouts of the dump were matched, and how many not, by reason."""
    counts = {"matched": matches.matched, **{name: len(of) for name, of in matches.lost().items()}}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(counts) + "\n")


def require_matched(matches: Matches, dump: str) -> None:
    """Refuse a dump that mostly answers other problems.

    Raises:
        RolloutsError: With the place of a rollout that was not matched.
    """
    lost = [rollout for of in matches.lost().values() for rollout in of]
    if matches.matched < FEWEST_MATCHED * (matches.matched + len(lost)):
        raise RolloutsError(
            f"{FEWEST_MATCHED:.0%} of a dump's rollouts must answer a problem of the pool or validation set",
            f"of {matches.matched + len(lost)} in {dump}, {len(matches.unmatched)} answer none, "
            f"{len(matches.ambiguous)} answer several, {len(matches.unusable)} have no single response "
            f"(the first: {lost[0].place})",
            "Give the pool that the trainer had, with its system prompt, or --allow-unmatched.",
        )


def _require_validation(stage: IngestStage, matches: Matches) -> None:
    if not any(stage.problems[number].split == "validation" for number in matches.of_problem):
        raise RolloutsError(
            "A dump must hold rollouts of the validation problems, too",
            f"none in {stage.settings.dump} answers one",
            "Take --validation from the problems that the trainer had, or sample without --dump.",
        )


def _row(stage: IngestStage, problem: PromptedProblem, number: int, rollout: DumpedRollout) -> dict[str, Any]:
    ids, provenance = _completion_ids(stage, rollout)
    prompt_ids = rollout.prompt_token_ids or problem.prompt_token_ids
    _require_known_tokens(stage, rollout, [*prompt_ids, *ids])
    known = provenance == "tokens" and rollout.logprobs is not None and len(rollout.logprobs) == len(ids)
    detail = rollout.detail if rollout.reward is not None else {"error": "the dump has no reward"}
    return {
        "problem_id": problem.problem_id,
        "rollout": number,
        "split": problem.split,
        "prompt_token_ids": prompt_ids,
        "completion_token_ids": ids,
        "completion": rollout.completion or stage.tokenizer.decode(ids, skip_special_tokens=True),
        "finish_reason": "stop" if ids[-1] in stage.stop_token_ids else "length",
        "sampling_logprobs": rollout.logprobs if known else None,
        "reward": rollout.reward,
        "reward_detail": json.dumps(detail, ensure_ascii=False, default=str),
        "policy": stage.policy_fingerprint,
        "seed": stage.settings.seed,
        "provenance": provenance,
    }


def _require_known_tokens(stage: IngestStage, rollout: DumpedRollout, ids: Sequence[int]) -> None:
    size = len(stage.tokenizer)
    foreign = [token for token in ids if not 0 <= token < size]
    if foreign:
        raise RolloutsError(
            f"The tokens of a dump must be those of the policy's tokenizer (0 to {size - 1})",
            f"{rollout.place} has {foreign[0]}, outside of it",
            "Give the --model that the trainer trained.",
        )


def _completion_ids(stage: IngestStage, rollout: DumpedRollout) -> tuple[list[int], str]:
    if rollout.completion_token_ids:
        return list(rollout.completion_token_ids), "tokens"
    text = rollout.completion or ""
    ids = list(stage.tokenizer(text, add_special_tokens=False)["input_ids"])
    end = end_token_id(stage.tokenizer, stage.stop_token_ids)
    if end is not None and (not ids or len(ids) < stage.settings.max_tokens):
        ids.append(end)
    return ids, "text"
