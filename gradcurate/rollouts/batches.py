"""Batches of problems, whose rollouts are a shard each.

A batch is cut by the problems and settings alone, and its shard is named by the problems in it, so a
resumed run makes the very same batches.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from gradcurate.config import Settings
from gradcurate.rollouts.rollout import PromptedProblem

Batch = tuple[PromptedProblem, ...]
"""Problems of one split."""


def cut_problem_batches(problems: Iterable[PromptedProblem], settings: Settings) -> list[Batch]:
    """Cut one split's problems, sorted by prompt length, into batches of ``batch_sequences`` rollouts."""
    ordered = sorted(problems, key=lambda problem: (len(problem.prompt_token_ids), problem.problem_id))
    size = max(1, settings.batch_sequences // settings.rollouts)
    return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def shard_path(folder: Path, batch: Batch) -> Path:
    """Return where a batch's shard lies."""
    key = hashlib.sha256("\n".join(problem.problem_id for problem in batch).encode()).hexdigest()[:16]
    return folder / f"{batch[0].split}-{key}.parquet"
