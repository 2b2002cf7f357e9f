"""The rollout stage: problems in, one shard of rewarded rollouts per batch of problems out.

Reads nothing but its arguments; writes ``rollouts/*.parquet``. A batch is cut by the problems and
settings alone, and its shard is named by the problems in it, so a resumed run makes the very same
batches and owes exactly those whose shard is absent.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gradcurate.config import Settings
from gradcurate.policies.policy import Policy
from gradcurate.progress import Progress
from gradcurate.rewards import RewardOutcome
from gradcurate.rollouts.randomness import rollout_uniforms
from gradcurate.rollouts.rewarding import Answer, ScoreCompletions
from gradcurate.rollouts.rollout import ROLLOUTS_SCHEMA, PromptedProblem
from gradcurate.rollouts.transformers_engine import sample_completions
from gradcurate.store.tables import Fingerprint, write_table

Batch = tuple[PromptedProblem, ...]


@dataclass(frozen=True)
class RolloutStage:
    """Everything a batch of rollouts is made with.

    Attributes:
        policy: Loads the policy when the first batch is due, and returns the same one after.
        reward: Scores completions.
        settings: Sampling settings.
        folder: Where shards go.
        fingerprint: What the shards depend on.
        policy_fingerprint: The checkpoint's own part of it.
    """

    policy: Callable[[], Policy]
    reward: ScoreCompletions
    settings: Settings
    folder: Path
    fingerprint: Fingerprint
    policy_fingerprint: str


def cut_problem_batches(problems: Iterable[PromptedProblem], settings: Settings) -> list[Batch]:
    """Cut one split's problems, sorted by prompt length, into batches of ``batch_sequences`` rollouts."""
    ordered = sorted(problems, key=lambda problem: (len(problem.prompt_token_ids), problem.problem_id))
    size = max(1, settings.batch_sequences // settings.rollouts)
    return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def shard_path(folder: Path, batch: Batch) -> Path:
    """Return where a batch's shard lies."""
    key = hashlib.sha256("\n".join(problem.problem_id for problem in batch).encode()).hexdigest()[:16]
    return folder / f"{batch[0].split}-{key}.parquet"


def run_rollouts(stage: RolloutStage, batches: Sequence[Batch], name: str, progress: Progress) -> None:
    """Sample and reward every batch whose shard is absent."""
    owed = [batch for batch in batches if not shard_path(stage.folder, batch).exists()]
    total, owing = (sum(len(batch) for batch in some) * stage.settings.rollouts for some in (batches, owed))
    with progress.task(name, total=total, done=total - owing, unit="rollouts") as task:
        for batch, answers, outcomes in _rewarded_while_sampling(stage, owed):
            table = _table(stage, answers, outcomes)
            write_table(shard_path(stage.folder, batch), table, "rollouts", stage.fingerprint)
            task.advance(len(table), tokens=sum(len(answer.completion.token_ids) for answer in answers))


def _rewarded_while_sampling(
    stage: RolloutStage, batches: Sequence[Batch]
) -> Iterator[tuple[Batch, list[Answer], list[RewardOutcome]]]:
    """Sample each batch while the one before it is rewarded, in a thread that waits for the workers."""
    rewarding = ThreadPoolExecutor(max_workers=1)
    pending: tuple[Batch, list[Answer], Future[list[RewardOutcome]]] | None = None
    try:
        for batch in batches:
            answers = _sample(stage, batch)
            if pending:
                yield pending[0], pending[1], pending[2].result()
            pending = batch, answers, rewarding.submit(stage.reward, answers)
        if pending:
            yield pending[0], pending[1], pending[2].result()
    finally:
        rewarding.shutdown(wait=False, cancel_futures=True)


def _sample(stage: RolloutStage, batch: Batch) -> list[Answer]:
    policy, settings = stage.policy(), stage.settings
    uniforms = np.stack(
        [
            np.stack(
                [
                    rollout_uniforms(settings.seed, problem.problem_id, rollout, settings.max_tokens)
                    for rollout in range(settings.rollouts)
                ]
            )
            for problem in batch
        ]
    )
    prompts = [problem.prompt_token_ids for problem in batch]
    completions = sample_completions(policy, prompts, uniforms, settings.temperature, settings.top_p)
    asked = [problem for problem in batch for _ in range(settings.rollouts)]
    decode = policy.tokenizer.decode
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
            "provenance": "sampled",
        }
        for index, (answer, outcome) in enumerate(zip(answers, outcomes, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=ROLLOUTS_SCHEMA)
