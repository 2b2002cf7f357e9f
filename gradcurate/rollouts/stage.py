"""The rollout stage: problems in, one shard of rewarded rollouts per batch of problems out.

Reads nothing but its arguments; writes ``rollouts/*.parquet``. A resumed run owes exactly the batches
whose shard is absent.
"""

import json
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradcurate.config import Settings
from gradcurate.progress import Progress
from gradcurate.rewards import RewardOutcome
from gradcurate.rollouts.batches import Batch, shard_path
from gradcurate.rollouts.engines.engine import Engine
from gradcurate.rollouts.rewarding import Answer, ScoreCompletions
from gradcurate.rollouts.rollout import ROLLOUTS_SCHEMA, Completion
from gradcurate.store.tables import Fingerprint, write_table


@dataclass(frozen=True)
class RolloutStage:
    """Everything a batch of rollouts is made with.

    Attributes:
        engine: What samples.
        tokenizer: The policy's.
        reward: Scores completions.
        settings: Sampling settings.
        folder: Where shards go.
        fingerprint: What the shards depend on.
        policy_fingerprint: The checkpoint's own part of it.
    """

    engine: Engine
    tokenizer: Any
    reward: ScoreCompletions
    settings: Settings
    folder: Path
    fingerprint: Fingerprint
    policy_fingerprint: str


def run_rollouts(stage: RolloutStage, batches: Sequence[Batch], name: str, progress: Progress) -> None:
    """Sample and reward every batch whose shard is absent."""
    owed = [batch for batch in batches if not shard_path(stage.folder, batch).exists()]
    total, owing = (sum(len(batch) for batch in some) * stage.settings.rollouts for some in (batches, owed))
    with (
        progress.task(name, total=total, done=total - owing, unit="rollouts") as task,
        closing(_rewarded_while_sampling(stage, owed)) as rewarded,
    ):
        for batch, answers, outcomes in rewarded:
            table = _table(stage, answers, outcomes)
            write_table(shard_path(stage.folder, batch), table, "rollouts", stage.fingerprint)
            stage.engine.committed(batch)
            task.advance(len(table), tokens=sum(len(answer.completion.token_ids) for answer in answers))


def _rewarded_while_sampling(
    stage: RolloutStage, batches: Sequence[Batch]
) -> Generator[tuple[Batch, list[Answer], list[RewardOutcome]], None, None]:
    """Sample each batch while the one before it is rewarded, in a thread that waits for the workers."""
    rewarding = ThreadPoolExecutor(max_workers=1)
    pending: tuple[Batch, list[Answer], Future[list[RewardOutcome]]] | None = None
    try:
        with closing(stage.engine.sample(batches)) as sampled:
            for batch, completions in sampled:
                answers = _answers(stage, batch, completions)
                if pending:
                    yield pending[0], pending[1], pending[2].result()
                pending = batch, answers, rewarding.submit(stage.reward, answers)
        if pending:
            yield pending[0], pending[1], pending[2].result()
    finally:
        rewarding.shutdown(wait=False, cancel_futures=True)


def _answers(stage: RolloutStage, batch: Batch, completions: Sequence[Completion]) -> list[Answer]:
    asked = [problem for problem in batch for _ in range(stage.settings.rollouts)]
    decode = stage.tokenizer.decode
    return [
        Answer(
            problem=problem,
            completion=completion,
            text=decode(completion.token_ids, skip_special_tokens=True),
            raw_text=decode(completion.token_ids),
            prompt_text=decode(problem.prompt_token_ids),
        )
        for problem, completion in zip(asked, completions, strict=True)
    ]


def _table(stage: RolloutStage, answers: Sequence[Answer], outcomes: Sequence[RewardOutcome]) -> pa.Table:
    rows = [
        {
            "problem_id": answer.problem.problem_id,
            "rollout": index % stage.settings.rollouts,
            "split": answer.problem.split,
            "prompt_token_ids": answer.problem.prompt_token_ids,
            "completion_token_ids": answer.completion.token_ids,
            "completion": answer.text,
            "finish_reason": answer.completion.finish_reason,
            "sampling_logprobs": answer.completion.logprobs,
            "reward": outcome.reward,
            "reward_detail": json.dumps(outcome.detail, ensure_ascii=False),
            "policy": stage.policy_fingerprint,
            "seed": stage.settings.seed,
            "provenance": answer.completion.provenance,
        }
        for index, (answer, outcome) in enumerate(zip(answers, outcomes, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=ROLLOUTS_SCHEMA)
