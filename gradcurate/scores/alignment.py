"""Alignment: from stored sketches to one score per problem. No model is needed.

A problem's gradient is the weighted sum of its rollouts' sketches. Its score is the cosine with
the validation gradient: the numerator is the weighted sum of the exact derivatives along the
validation direction, and only the problem's norm comes from the sketch. `sketched_cosine` is the
same cosine from sketches alone, which is what a later question (another validation set,
near-duplicates) has to do with; ``numerator`` says which of the two the score is.

Departure from the reference implementation: a problem without a learning signal has no score. It
is null with a status, where the reference writes 0.0 and so ranks it above every problem of
negative alignment. So is a problem whose gradients cancel, as they do when a reward that is not
deterministic tells equal completions apart: what is left of them is rounding.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from gradcurate.errors import NoSignalError, RunDirectoryError
from gradcurate.problems.problem import Problem, Split
from gradcurate.scores.groups import Group, empty_group
from gradcurate.sketches.rows import unit_sketches
from gradcurate.store.tables import read_table, shard_paths

SCORES_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rank", pa.int64()),
        pa.field("score", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("pass_rate", pa.float64()),
        pa.field("mean_reward", pa.float64()),
        pa.field("reward_std", pa.float64()),
        pa.field("rollouts", pa.int32(), nullable=False),
        pa.field("failed_rollouts", pa.int32(), nullable=False),
        pa.field("numerator", pa.string()),
        pa.field("dot", pa.float64()),
        pa.field("norm", pa.float64()),
        pa.field("sketched_cosine", pa.float64()),
    ]
)

Row = dict[str, Any]
STORAGE_ERROR = 2.0**-11
"""What float16 may lose of a stored sketch, as a share of its length."""

SKETCH_COLUMNS = ["problem_id", "rollout", "norm", "directional", "sketch"]


@final
class ProblemGradients:
    """Weighted sums over the rollouts of each problem: sketch, its terms' lengths, derivative, count."""

    def __init__(self) -> None:
        self.sketches: dict[str, Float[np.ndarray, " K"]] = {}
        self.lengths: dict[str, float] = {}
        self.dots: dict[str, float] = {}
        self.rollouts: dict[str, int] = {}

    def add(self, problem_id: str, sketch_K: Float[np.ndarray, " K"], dot: float) -> None:
        """Add one weighted rollout."""
        self.sketches[problem_id] = self.sketches.get(problem_id, 0.0) + sketch_K
        self.lengths[problem_id] = self.lengths.get(problem_id, 0.0) + float(np.linalg.norm(sketch_K))
        self.dots[problem_id] = self.dots.get(problem_id, 0.0) + dot
        self.rollouts[problem_id] = self.rollouts.get(problem_id, 0) + 1

    def lacking(self, weights: Mapping[str, Mapping[Any, float]]) -> list[str]:
        """Return the problems of which a row with a weight was not there."""
        return [p for p, by_rollout in weights.items() if self.rollouts.get(p, 0) != len(by_rollout)]

    def drop(self, problem_ids: Iterable[str]) -> None:
        """Forget problems, as those are of which only a part was there."""
        for problem_id in problem_ids:
            for sums in (self.sketches, self.lengths, self.dots, self.rollouts):
                sums.pop(problem_id, None)

    def total_sketch(self) -> Float[np.ndarray, " K"]:
        """Return the sum over all problems.

        Raises:
            NoSignalError: The gradients cancel, and what is left of them is rounding.
            RunDirectoryError: There is nothing to sum.
        """
        if not self.sketches:
            raise RunDirectoryError(
                "At least one validation problem with a learning signal must have its sketches",
                "none has",
                "Score into another --run.",
            )
        total_K: np.ndarray = np.stack(list(self.sketches.values())).sum(axis=0)
        if float(np.linalg.norm(total_K)) <= STORAGE_ERROR * sum(self.lengths.values()):
            raise NoSignalError(
                "The gradients of the validation rollouts must add up to a direction",
                "they cancel: equal completions have different rewards",
                "Use a reward that judges equal completions equally, more --rollouts, and a new --run.",
            )
        return total_K


def sum_gradients(folder: Path, split: Split, weights: Mapping[str, Mapping[Any, float]]) -> ProblemGradients:
    """Add up one split's sketches, a shard at a time.

    Args:
        folder: The sketch shards.
        split: Which split.
        weights: Each row's weight, by problem and rollout number; None is the number of a problem's own row.
    """
    sums = ProblemGradients()
    for path in shard_paths(folder):
        if path.name.startswith(f"{split}-"):
            _add_shard(sums, read_table(path, SKETCH_COLUMNS), weights)
    return sums


def require_all_sketches(sums: ProblemGradients, weights: Mapping[str, Mapping[Any, float]]) -> None:
    """Refuse to score a part of a run.

    Raises:
        RunDirectoryError: A live rollout has no sketch.
    """
    lacking = sums.lacking(weights)
    if lacking:
        raise RunDirectoryError(
            "Every rollout of a group with a learning signal must have a sketch",
            f"problem {lacking[0]} and {len(lacking) - 1} others lack some",
            "Run `gradcurate sketch` first.",
        )


def score_problems(
    problems: Sequence[Problem],
    groups: Mapping[str, Group],
    pool: ProblemGradients,
    validation_sketch_K: Float[np.ndarray, " K"],
    validation_norm: float | None,
    lacking: Collection[str] = (),
) -> pa.Table:
    """Return the scores of the pool's problems, best first, those without a score last.

    Args:
        problems: The pool.
        groups: Each problem's rewards.
        pool: Each scored problem's summed gradient.
        validation_sketch_K: The sketch of the validation gradient.
        validation_norm: The exact length of the validation gradient, if the stored derivatives are along it;
            None if the numerators are to be of sketches, too.
        lacking: Problems without some of their sketches.
    """
    rows = []
    for problem in problems:
        group = groups.get(problem.problem_id) or empty_group(problem.problem_id, problem.split)
        row: Row = {"problem_id": problem.problem_id, "source": problem.source, "status": group.status}
        row |= _reward_statistics(group)
        if group.status == "scored" and problem.problem_id in lacking:
            row["status"] = "not_sketched"
        elif group.status == "scored":
            row |= _alignment(problem.problem_id, pool, validation_sketch_K, validation_norm)
        rows.append(row)
    return pa.Table.from_pylist(_rank(rows), schema=SCORES_SCHEMA)


def _add_shard(sums: ProblemGradients, shard: pa.Table, weights: Mapping[str, Mapping[Any, float]]) -> None:
    unit = unit_sketches(shard)
    ids, rollouts, norms, directional = (shard[name].to_pylist() for name in SKETCH_COLUMNS[:-1])
    for row, (problem_id, rollout) in enumerate(zip(ids, rollouts, strict=True)):
        weight = weights.get(problem_id, {}).get(rollout)
        if weight is not None:
            dot = weight * directional[row] if directional[row] is not None else 0.0
            norm = np.nan if norms[row] is None else norms[row]  # of --scorer forward
            sums.add(problem_id, weight * norm * unit[row], dot)


def _reward_statistics(group: Group) -> dict[str, float | int | None]:
    rewards, enough = group.rewards_G, len(group.rewards_G) > 1
    return {
        "pass_rate": group.pass_rate,
        "mean_reward": float(rewards.mean()) if len(rewards) else None,
        "reward_std": float(rewards.std(ddof=1)) if enough else None,
        "rollouts": len(rewards),
        "failed_rollouts": group.failed,
    }


def _alignment(
    problem_id: str,
    pool: ProblemGradients,
    validation_K: Float[np.ndarray, " K"],
    validation_norm: float | None,
) -> Row:
    if problem_id not in pool.sketches:  # its row would have been zero
        return {"status": "no_gradient"}
    sketch, dot = pool.sketches[problem_id], pool.dots[problem_id]
    norm = float(np.linalg.norm(sketch))
    if np.isnan(norm):  # only derivatives were taken
        return {"score": dot, "numerator": "exact", "dot": dot}
    if norm <= STORAGE_ERROR * pool.lengths[problem_id]:
        return {"status": "no_gradient"}
    sketched_dot = float(sketch @ validation_K)
    cosine = sketched_dot / (norm * float(np.linalg.norm(validation_K)))
    row: Row = {"norm": norm, "sketched_cosine": cosine}
    if validation_norm is None:
        return row | {"score": cosine, "numerator": "sketched", "dot": sketched_dot}
    return row | {"score": dot / (norm * validation_norm), "numerator": "exact", "dot": dot}


def _rank(rows: list[Row]) -> list[Row]:
    """Sort by score, ties by id, and number the scored rows from 1."""
    ordered = sorted(rows, key=lambda row: (-row.get("score", -np.inf), row["problem_id"]))
    for rank, row in enumerate(ordered, start=1):
        row["rank"] = rank if "score" in row else None
    return ordered
