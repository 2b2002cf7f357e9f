"""The order of the stages, and nothing else.

    problems -> rollouts -> rewards -> sketches -> scores -> selection -> exports

Every function takes a run directory as far as one verb does, and goes on from whatever exists.
The validation split leads in each stage: its rollouts are sampled first, so that a validation set
without a signal is found out before the pool costs anything, and its direction is complete before
the pool is sketched.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from gradcurate.config import Settings
from gradcurate.errors import NoSignalError
from gradcurate.inputs import Inputs, read_inputs
from gradcurate.policies.policy import Policy, load_policy
from gradcurate.problems import Problem, problems_to_table, table_to_problems
from gradcurate.problems.rows import write_bad_rows
from gradcurate.progress import Progress
from gradcurate.rewards import RewardOutcome, RewardPool
from gradcurate.rewards.request import reward_request
from gradcurate.rollouts import stage as rollout_stage
from gradcurate.rollouts.rollout import ROLLOUTS_SCHEMA, PromptedProblem
from gradcurate.scores.alignment import score_problems, sum_gradients
from gradcurate.scores.groups import GROUP_COLUMNS, Group, count_statuses, group_rollouts
from gradcurate.sketches import stage as sketch_stage
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.direction_record import read_record
from gradcurate.sketches.live_rollouts import TOKEN_COLUMNS, live_rollouts
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import Sketcher, build_sketcher
from gradcurate.store.lock import locked
from gradcurate.store.manifest import Manifest, write_manifest
from gradcurate.store.run_directory import RunDirectory, require_same_fingerprint, require_same_shards
from gradcurate.store.tables import read_shards, read_table, write_table

SPLITS = ("validation", "pool")


def score(settings: Settings, progress: Progress) -> None:
    """Take a run from its problems to its scores."""
    with _opened(settings) as (run, inputs, policy):
        _roll_out(settings, run, inputs, policy, progress)
        _sketch(settings, run, inputs, policy, progress)
        _score(settings, run, inputs)


def rollout(settings: Settings, progress: Progress) -> None:
    """Take a run from its problems to its rewarded rollouts."""
    with _opened(settings) as (run, inputs, policy):
        _roll_out(settings, run, inputs, policy, progress)


def sketch(settings: Settings, progress: Progress) -> None:
    """Take a run from its rollouts to its sketches."""
    with _opened(settings) as (run, inputs, policy):
        _sketch(settings, run, inputs, policy, progress)


def read_problems_of(run: RunDirectory) -> tuple[Problem, ...]:
    """Return the problems of a run, pool and validation."""
    return table_to_problems(read_table(run.problems))


def read_groups(run: RunDirectory) -> list[Group]:
    """Return the groups of a run, pool and validation."""
    return group_rollouts(read_shards(run.rollouts, ROLLOUTS_SCHEMA, GROUP_COLUMNS))


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[RunDirectory, Inputs, Callable[[], Policy]]]:
    """Check all inputs, then hold the run directory, refusing one of other settings."""
    run = RunDirectory(Path(settings.run))
    inputs = read_inputs(settings)
    with locked(run.root):
        _record(settings, run, inputs)
        yield run, inputs, functools.cache(
            lambda: load_policy(inputs.checkpoint, inputs.tokenizer, settings.dtype, settings.device)
        )


def _record(settings: Settings, run: RunDirectory, inputs: Inputs) -> None:
    fingerprints = inputs.fingerprints
    if run.problems.exists():
        require_same_fingerprint(run.problems, fingerprints["problems"])
    require_same_shards(run.rollouts, fingerprints["rollouts"])
    require_same_shards(run.sketches, fingerprints["sketches"])
    if not run.problems.exists():
        write_table(
            run.problems, problems_to_table(inputs.problems), "problems", fingerprints["problems"]
        )
    write_bad_rows(run.bad_rows, inputs.bad_rows)
    manifest = Manifest(settings, inputs.prompt_format, str(fingerprints["rollouts"]["policy"]))
    write_manifest(run.manifest, manifest, fingerprints)


def _roll_out(
    settings: Settings, run: RunDirectory, inputs: Inputs, policy: Callable[[], Policy], progress: Progress
) -> None:
    batches = {
        split: rollout_stage.cut_problem_batches(inputs.prompted_of(split), settings) for split in SPLITS
    }
    with _rewards(settings, read_problems_of(run)) as reward:
        stage = rollout_stage.RolloutStage(
            policy=policy,
            reward=reward,
            settings=settings,
            folder=run.rollouts,
            fingerprint=inputs.fingerprints["rollouts"],
            policy_fingerprint=str(inputs.fingerprints["rollouts"]["policy"]),
        )
        for split in SPLITS:
            rollout_stage.run_rollouts(stage, batches[split], f"roll out {split}", progress)
            if split == "validation":
                _require_validation_signal(read_groups(run))


@contextmanager
def _rewards(
    settings: Settings, problems: Sequence[Problem]
) -> Iterator[Callable[[Sequence[tuple[PromptedProblem, str]]], list[RewardOutcome]]]:
    by_id = {(problem.split, problem.problem_id): problem for problem in problems}
    with RewardPool(settings.reward, settings.reward_workers, settings.reward_timeout_seconds) as pool:

        def score_completions(asked: Sequence[tuple[PromptedProblem, str]]) -> list[RewardOutcome]:
            return pool.score(
                [reward_request(by_id[problem.split, problem.problem_id], text) for problem, text in asked]
            )

        yield score_completions


def _require_validation_signal(groups: Sequence[Group]) -> None:
    validation = [group for group in groups if group.split == "validation"]
    counts = count_statuses(validation)
    if not counts.get("scored"):
        seen = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        raise NoSignalError(
            "At least one validation problem must have rollouts of different rewards",
            f"of {len(validation)} problems, {seen}",
            "Use more --rollouts, a higher --temperature, a larger --max-tokens, or validation problems "
            "that the policy solves sometimes; `gradcurate inspect` shows what it answered.",
        )


def _sketch(
    settings: Settings, run: RunDirectory, inputs: Inputs, policy: Callable[[], Policy], progress: Progress
) -> None:
    groups = read_groups(run)
    _require_validation_signal(groups)
    tokens = read_shards(run.rollouts, ROLLOUTS_SCHEMA, TOKEN_COLUMNS)
    stage = sketch_stage.SketchStage(
        sketcher=functools.cache(lambda: _sketcher(settings, policy())),
        folder=run.sketches,
        direction=run.direction,
        fingerprint=inputs.fingerprints["sketches"],
    )
    for split, work in (
        ("validation", sketch_stage.run_validation_sketches),
        ("pool", sketch_stage.run_pool_sketches),
    ):
        live = live_rollouts(tokens, groups, split, settings.advantage, settings.token_weight)
        work(stage, cut_batches(live, lambda r: r.tokens, lambda r: r.identity, settings.batch_tokens), progress)


def _sketcher(settings: Settings, policy: Policy) -> Sketcher:
    projection = Projection(settings.sketch_dim, settings.sketch_seed)
    return build_sketcher(policy.model, projection, settings.kernel, settings.temperature)


def _score(settings: Settings, run: RunDirectory, inputs: Inputs) -> None:
    groups = read_groups(run)
    pool, validation = (_weights(groups, split, settings) for split in ("pool", "validation"))
    direction = sum_gradients(run.sketches, "validation", validation)
    scores = score_problems(
        [problem for problem in inputs.problems if problem.split == "pool"],
        {group.problem_id: group for group in groups if group.split == "pool"},
        sum_gradients(run.sketches, "pool", pool),
        sum(direction.sketches.values()),
        read_record(run.direction).norm,
    )
    write_table(run.scores, scores, "scores", inputs.fingerprints["sketches"])


def _weights(groups: Sequence[Group], split: str, settings: Settings) -> Mapping[str, dict[int, float]]:
    return {
        group.problem_id: dict(
            zip(
                group.rollouts_G.tolist(),
                group.weights(settings.advantage, settings.token_weight).tolist(),
                strict=True,
            )
        )
        for group in groups
        if group.split == split and group.status == "scored"
    }


