"""Rewarding the rollouts of a run again: nothing is sampled, and no rollout's row is touched.

For each shard of ``rollouts/`` one of the same name and order goes to ``rewards/``, whose rewards stand for
those that the rollouts were sampled with. A shard that these very rewards have made is made again only if
some have failed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradcurate.progress import Progress
from gradcurate.rewards import RewardOutcome
from gradcurate.rollouts.rewarding import Answer, ScoreCompletions
from gradcurate.rollouts.rollout import REWARDS_SCHEMA, Completion, PromptedProblem
from gradcurate.store.tables import Fingerprint, read_fingerprint, read_table, shard_paths, write_table


@dataclass(frozen=True)
class RerewardingStage:
    """Everything that rewards are made with.

    Attributes:
        reward: Scores completions.
        tokenizer: The policy's.
        rollouts: Where the shards of rollouts are.
        rewards: Where those of rewards go.
        fingerprint: What the rewards depend on, besides the rollouts.
    """

    reward: ScoreCompletions
    tokenizer: Any
    rollouts: Path
    rewards: Path
    fingerprint: Fingerprint


def run_rerewarding(stage: RerewardingStage, progress: Progress) -> None:
    """Reward every shard that other rewards have made, or none."""
    shards = shard_paths(stage.rollouts)
    owed = [shard for shard in shards if not _is_done(stage, stage.rewards / shard.name)]
    counts = {shard: len(read_table(shard, ["rollout"])) for shard in shards}
    total, owing = sum(counts.values()), sum(counts[shard] for shard in owed)
    with progress.task("reward", total=total, done=total - owing, unit="rollouts") as task:
        for shard in owed:
            rows = read_table(shard)
            outcomes = stage.reward([_answer(stage.tokenizer, row) for row in rows.to_pylist()])
            write_table(stage.rewards / shard.name, _table(rows, outcomes), "rewards", stage.fingerprint)
            task.advance(len(rows))


def _is_done(stage: RerewardingStage, path: Path) -> bool:
    if not path.exists() or read_fingerprint(path) != dict(stage.fingerprint):
        return False
    return not read_table(path, ["reward"])["reward"].null_count


def _answer(tokenizer: Any, row: dict[str, Any]) -> Answer:
    prompt, response = tuple(row["prompt_token_ids"]), tuple(row["completion_token_ids"])
    return Answer(
        problem=PromptedProblem(row["problem_id"], row["split"], prompt),
        completion=Completion(response, None, row["finish_reason"], row["provenance"]),
        text=row["completion"],
        raw_text=tokenizer.decode(response),
        prompt_text=tokenizer.decode(prompt),
    )


def _table(rows: pa.Table, outcomes: Sequence[RewardOutcome]) -> pa.Table:
    details = [json.dumps(outcome.detail, ensure_ascii=False) for outcome in outcomes]
    columns = {"reward": [outcome.reward for outcome in outcomes], "reward_detail": details}
    kept = rows.drop_columns(list(columns))
    for name, values in columns.items():
        kept = kept.append_column(name, pa.array(values, REWARDS_SCHEMA.field(name).type))
    return kept.select(REWARDS_SCHEMA.names).cast(REWARDS_SCHEMA)
