"""Reading back what a run directory holds, as the types of the stages. No model, no torch."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gradcurate.config import Settings
from gradcurate.errors import RunDirectoryError
from gradcurate.problems import Problem, Split, table_to_problems
from gradcurate.rollouts.rollout import REWARDS_SCHEMA, ROLLOUTS_SCHEMA
from gradcurate.scores.groups import GROUP_COLUMNS, Group, empty_group, group_rollouts
from gradcurate.store.run_directory import RunDirectory, require_stage
from gradcurate.store.tables import read_fingerprint, read_shards, read_table, shard_paths


def read_problems(run: RunDirectory) -> tuple[Problem, ...]:
    """Return the problems of a run, validation and pool."""
    require_stage(run.problems, "gradcurate score")
    return table_to_problems(read_table(run.problems))


def read_rollouts(run: RunDirectory, columns: list[str] | None = None) -> pa.Table:
    """Return the rollouts of a run, with their latest rewards.

    Raises:
        RunDirectoryError: They are being rewarded again, and not all of them have been.
    """
    rollouts = read_shards(run.rollouts, ROLLOUTS_SCHEMA, columns)
    replaced = [name for name in ("reward", "reward_detail") if name in rollouts.column_names]
    if not replaced or not shard_paths(run.rewards):
        return rollouts
    _require_all_rewarded(run)
    rewards = read_shards(run.rewards, REWARDS_SCHEMA)
    for name in replaced:
        place = rollouts.column_names.index(name)
        rollouts = rollouts.set_column(place, REWARDS_SCHEMA.field(name), rewards[name])
    return rollouts


def _require_all_rewarded(run: RunDirectory) -> None:
    rewarded = shard_paths(run.rewards)
    fingerprints = {json.dumps(read_fingerprint(path), sort_keys=True) for path in rewarded}
    missing = {path.name for path in shard_paths(run.rollouts)} ^ {path.name for path in rewarded}
    if missing or len(fingerprints) > 1:
        raise RunDirectoryError(
            "Later rewards must be there for every rollout",
            f"{run.rewards} has those of some",
            "Run `gradcurate reward` again, or remove that folder to go back to the first rewards.",
        )


def read_groups(run: RunDirectory, excluded: frozenset[tuple[str, int]] = frozenset()) -> list[Group]:
    """Return the groups of a run, validation and pool, without some rollouts."""
    rollouts = read_rollouts(run, GROUP_COLUMNS)
    if not excluded:
        return group_rollouts(rollouts)
    keys = zip(rollouts["problem_id"].to_pylist(), rollouts["rollout"].to_pylist(), strict=True)
    kept = group_rollouts(rollouts.filter(pa.array([key not in excluded for key in keys])))
    left = {(group.split, group.problem_id) for group in kept}
    return [
        *kept,
        *(
            empty_group(group.problem_id, group.split)
            for group in group_rollouts(rollouts)
            if (group.split, group.problem_id) not in left
        ),
    ]


def read_group(run: RunDirectory, problem: Problem) -> Group:
    """Return the rewards of one problem's rollouts.

    Raises:
        RunDirectoryError: It has none yet.
    """
    for group in read_groups(run):
        if (group.split, group.problem_id) == (problem.split, problem.problem_id):
            return group
    raise RunDirectoryError(
        f"Problem {problem.problem_id} must have rollouts",
        f"{run.rollouts} has none of it yet",
        "Run `gradcurate rollout` first.",
    )


def first_failure(run: RunDirectory, split: Split) -> str | None:
    """Return why the first rollout of a split without a reward has none; None where all have one."""
    rollouts = read_rollouts(run, ["split", "reward", "reward_detail"])
    failed = rollouts.filter(pc.and_(pc.equal(rollouts["split"], split), pc.is_null(rollouts["reward"])))
    return str(json.loads(failed["reward_detail"][0].as_py())["error"]) if len(failed) else None


def read_scores(run: RunDirectory) -> pa.Table:
    """Return the scores of a run, best first."""
    require_stage(run.scores, "gradcurate score")
    return read_table(run.scores)


def read_directional(run: RunDirectory, problem_id: str) -> dict[int, float | None]:
    """Return the stored derivatives of one pool problem's rollouts along the validation direction."""
    found: dict[int, float | None] = {}
    for path in shard_paths(run.sketches):
        if path.name.startswith("pool-"):
            rows = read_table(path, ["problem_id", "rollout", "directional"])
            mine = rows.filter(pc.equal(rows["problem_id"], problem_id))
            found |= dict(zip(mine["rollout"].to_pylist(), mine["directional"].to_pylist(), strict=True))
    return found


def group_weights(group: Group, settings: Settings) -> dict[int, float]:
    """Return each rollout's weight under a run's settings; empty for a group without a signal."""
    if group.status != "scored":
        return {}
    weights = group.weights(settings.advantage, settings.token_weight)
    return dict(zip(group.rollouts_G.tolist(), weights.tolist(), strict=True))


def split_weights(groups: Iterable[Group], split: Split, settings: Settings) -> dict[str, dict[int, float]]:
    """Return the weights of one split's scored groups, by problem and rollout."""
    return {
        group.problem_id: group_weights(group, settings)
        for group in groups
        if group.split == split and group.status == "scored"
    }


def unsketched(run: RunDirectory, split: Split, weights: Mapping[str, Mapping[int, float]]) -> set[str]:
    """Return the problems with a weighted rollout that has no sketch: later rewards have made it live."""
    sketched: set[tuple[str, int]] = set()
    for path in shard_paths(run.sketches):
        if path.name.startswith(f"{split}-"):
            rows = read_table(path, ["problem_id", "rollout"])
            sketched |= set(zip(rows["problem_id"].to_pylist(), rows["rollout"].to_pylist(), strict=True))
    return {p for p, of in weights.items() if any((p, rollout) not in sketched for rollout in of)}


def validation_statuses(run: RunDirectory, groups: Iterable[Group], settings: Settings) -> dict[str, int]:
    """Count the validation problems by status; those that the direction is without are ``not_sketched``."""
    validation = [group for group in groups if group.split == "validation"]
    weights = split_weights(validation, "validation", settings)
    later = bool(shard_paths(run.rewards)) and bool(shard_paths(run.sketches))
    without = unsketched(run, "validation", weights) if later else set()
    return dict(Counter("not_sketched" if g.problem_id in without else g.status for g in validation))


def rows_of_problem(table: pa.Table, split: Split, problem_id: str) -> list[dict[str, Any]]:
    """Return one problem's rows of a table of rollouts."""
    mine = pc.and_(pc.equal(table["problem_id"], problem_id), pc.equal(table["split"], split))
    rows: list[dict[str, Any]] = table.filter(mine).to_pylist()
    return rows
