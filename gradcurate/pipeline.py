"""The order of the stages, and nothing else.

    problems -> rollouts -> rewards -> sketches -> scores -> selection -> exports

Every function takes a run directory as far as one verb does, and goes on from whatever exists.
The validation split leads in each stage: its rollouts are sampled first, so that a validation set
without a signal is found out before the pool costs anything, and its direction is complete before
the pool is sketched.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from gradcurate.config import Settings
from gradcurate.errors import NoSignalError, ProblemsError, RunDirectoryError, SettingsError
from gradcurate.inputs import Inputs, digest, read_inputs, reward_fingerprint
from gradcurate.policies.checkpoints import Checkpoint, find_checkpoint
from gradcurate.policies.policy import (
    Policy,
    load_policy,
    load_tokenizer,
    require_vocabulary,
    resolve_device,
    resolve_dtype,
)
from gradcurate.problems import Problem, Split, problems_to_table
from gradcurate.problems.bad_rows import write_bad_rows
from gradcurate.progress import Progress
from gradcurate.results import read_groups, read_problems, read_rollouts, split_weights
from gradcurate.rewards import RewardPool, RewardSpec
from gradcurate.rollouts import rerewarding
from gradcurate.rollouts import stage as rollout_stage
from gradcurate.rollouts.batches import Batch, cut_problem_batches, shard_path
from gradcurate.rollouts.engines.choosing import engine_for, require_engine
from gradcurate.rollouts.ingest import stage as ingest_stage
from gradcurate.rollouts.rewarding import completion_scorer
from gradcurate.scores.evidence import Weighting, reference_weight
from gradcurate.scores.expression import parse_expression
from gradcurate.scores.groups import Group
from gradcurate.scoring import (
    Rescoring,
    require_validation_signal,
    scorer_of,
    write_direction_weights,
    write_scores,
)
from gradcurate.sketches import stage as sketch_stage
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.building import sketcher_for
from gradcurate.sketches.live_rollouts import (
    TOKEN_COLUMNS,
    LiveRollout,
    LiveRow,
    live_groups,
    live_rollouts,
)
from gradcurate.sketches.sketcher import Sketcher
from gradcurate.store.lock import locked
from gradcurate.store.manifest import Manifest, read_manifest, write_manifest
from gradcurate.store.run_directory import (
    RunDirectory,
    remove_temporary_files,
    require_empty,
    require_same_fingerprint,
    require_same_shards,
    require_stage,
)
from gradcurate.store.tables import read_fingerprint, shard_paths, write_table

SPLITS: tuple[Split, ...] = ("validation", "pool")
VALIDATION_ROLLOUTS = "validation_rollouts"
"""Key of the sketches' fingerprint that only finished rollouts can tell: what the direction is a sum of."""


def score(settings: Settings, progress: Progress) -> None:
    """Take a run from its problems to its scores."""
    settings = _on_this_machine(settings)
    require_engine(settings)
    inputs = read_inputs(settings)
    scorer_of(settings, sorted({p.source for p in inputs.problems if p.split == "validation"}))
    _references(settings, inputs, sampled=())
    with _rewards(settings, inputs) as rewards, _opened(settings, inputs) as (run, models):
        _roll_out(settings, run, inputs, models, rewards, progress)
        _sketch(settings, run, inputs, models, progress)
        _score(settings, run, inputs)


def rollout(settings: Settings, progress: Progress) -> None:
    """Take a run from its problems to its rewarded rollouts."""
    settings = _on_this_machine(settings)
    require_engine(settings)
    inputs = read_inputs(settings)
    with _rewards(settings, inputs) as rewards, _opened(settings, inputs) as (run, models):
        _roll_out(settings, run, inputs, models, rewards, progress)


def sketch(settings: Settings, progress: Progress) -> None:
    """Take a run from its rollouts to its sketches."""
    require_stage(RunDirectory(Path(settings.run)).problems, "gradcurate rollout")
    settings = _on_this_machine(settings)
    inputs = read_inputs(settings)
    with _opened(settings, inputs) as (run, models):
        _require_all_rollouts(settings, run, inputs)
        _sketch(settings, run, inputs, models, progress)


def _on_this_machine(settings: Settings) -> Settings:
    """Resolve what rows depend on and the machine decides, so that it is recorded."""
    return replace(settings, dtype=resolve_dtype(settings.dtype, settings.device))


def reward(settings: Settings, progress: Progress) -> None:
    """Reward the rollouts of a finished run again, and rank it anew from the sketches that it has."""
    run = RunDirectory(Path(settings.run))
    problems, prompt_format = read_problems(run), read_manifest(run.manifest).prompt_format
    _require_rewardable(settings, run, problems)
    with _reward_pool(settings, problems) as rewards, locked(run.root):
        remove_temporary_files(run)
        stage = rerewarding.RerewardingStage(
            reward=completion_scorer(rewards, problems, prompt_format),
            tokenizer=load_tokenizer(find_checkpoint(settings.model)),
            rollouts=run.rollouts,
            rewards=run.rewards,
            fingerprint={
                **reward_fingerprint(settings),
                # Given again for their sake, too: they decide what fails, and what a slow program is worth.
                "reward_timeout_seconds": settings.reward_timeout_seconds,
                "reward_memory_mebibytes": settings.reward_memory_mebibytes,
            },
        )
        rerewarding.run_rerewarding(stage, progress)
        if run.direction.exists() and shard_paths(run.sketches):
            run.scores.unlink(missing_ok=True)  # those of other rewards, should these give none
            _rescore(settings, run)


def _require_rewardable(settings: Settings, run: RunDirectory, problems: Sequence[Problem]) -> None:
    keys = read_rollouts(run, ["split", "problem_id"])
    rewarded = set(zip(keys["split"].to_pylist(), keys["problem_id"].to_pylist(), strict=True))
    lacking = [p for p in problems if (p.split, p.problem_id) not in rewarded]
    if not rewarded or (lacking and settings.dump is None):
        raise RunDirectoryError(
            "Every problem must have its rollouts before they are rewarded again",
            f"{len(lacking)} of {len(problems)} problems in {run.root} have none yet",
            "Run `gradcurate rollout` first.",
        )
    if run.direction.exists() and settings.granularity == "problem":
        raise RunDirectoryError(
            "Later rewards need a sketch for each rollout",
            f"those of {run.root} are sums (--granularity problem), weighted by the first rewards",
            "Score into another --run.",
        )


def _rewards(settings: Settings, inputs: Inputs) -> AbstractContextManager[RewardPool | None]:
    """Load the reward, before the run directory is opened, so that a faulty one leaves nothing behind.

    With ``dump``, rollouts have their rewards already.
    """
    if settings.dump:
        if settings.reward_weights:
            raise SettingsError(
                "--dump brings its own rewards, which --reward-weights does not weigh",
                f"{settings.reward_weights!r} was given",
                "Leave it out.",
            )
        return nullcontext()
    return _reward_pool(settings, inputs.problems)


def _reward_pool(settings: Settings, problems: Sequence[Problem]) -> RewardPool:
    spec = RewardSpec(
        names=settings.reward_names,
        weights=settings.reward_weight_numbers,
        style=settings.reward_style,
        columns=sorted(set.intersection(*(set(problem.row) for problem in problems))),
        memory_mebibytes=settings.reward_memory_mebibytes,
        timeout_seconds=settings.reward_timeout_seconds,
    )
    return RewardPool(spec, settings.reward_workers, settings.reward_timeout_seconds)


@dataclass(frozen=True)
class _Models:
    """The models of a run, each loaded when it is first asked for."""

    policy: Callable[[], Policy]
    gradients: Callable[[], Policy]
    sketcher: Callable[[], Sketcher]


def _models(settings: Settings, inputs: Inputs) -> _Models:
    def load(checkpoint: Checkpoint) -> Callable[[], Policy]:
        return functools.cache(
            lambda: load_policy(
                checkpoint, inputs.tokenizer, settings.dtype, settings.device, settings.adapter
            )
        )

    policy = load(inputs.checkpoint)
    proxy = inputs.gradient_checkpoint != inputs.checkpoint
    gradients = load(inputs.gradient_checkpoint) if proxy else policy
    sketcher = functools.cache(lambda: sketcher_for(settings, inputs.gradient_checkpoint, gradients()))
    return _Models(policy, gradients, sketcher)


def _require_fitting(settings: Settings, inputs: Inputs, models: _Models) -> None:
    """Find out whether the models load and have gradients to sketch.

    Where another process samples, these are copies in main memory, dropped again: it needs the GPU's.
    """
    if settings.engine != "transformers":
        resolve_device(settings.device)
        models = _models(replace(settings, device="cpu"), inputs)
    for model in {models.gradients(), models.policy()}:
        require_vocabulary(model, (token for p in inputs.prompted for token in p.prompt_token_ids))
    models.sketcher()


@contextmanager
def _opened(settings: Settings, inputs: Inputs) -> Iterator[tuple[RunDirectory, _Models]]:
    """Hold the run directory, refusing one of other settings; a new one only for models that fit."""
    run, models = RunDirectory(Path(settings.run)), _models(settings, inputs)
    if not run.problems.exists():  # else these were found out when the run began
        require_empty(run.root)
        _require_fitting(settings, inputs, models)
    with locked(run.root):
        remove_temporary_files(run)
        _record(settings, run, inputs)
        yield run, models


def _record(settings: Settings, run: RunDirectory, inputs: Inputs) -> None:
    fingerprints = inputs.fingerprints
    if run.problems.exists():
        require_same_fingerprint(run.problems, fingerprints["problems"])
    require_same_shards(run.rollouts, fingerprints["rollouts"])
    require_same_shards(run.sketches, fingerprints["sketches"], yet_unknown=[VALIDATION_ROLLOUTS])
    if not run.problems.exists():
        write_table(run.problems, problems_to_table(inputs.problems), "problems", fingerprints["problems"])
    write_bad_rows(run.bad_rows, inputs.bad_rows)
    manifest = Manifest(settings, inputs.prompt_format, str(fingerprints["rollouts"]["policy"]))
    write_manifest(run.manifest, manifest, fingerprints)


def _ingest(settings: Settings, run: RunDirectory, inputs: Inputs, progress: Progress) -> None:
    stage = ingest_stage.IngestStage(
        problems=inputs.problems,
        prompted=inputs.prompted,
        tokenizer=inputs.tokenizer,
        stop_token_ids=inputs.stop_token_ids,
        settings=settings,
        folder=run.rollouts,
        fingerprint=inputs.fingerprints["rollouts"],
        policy_fingerprint=str(inputs.fingerprints["rollouts"]["policy"]),
    )
    matches = ingest_stage.run_ingest(stage, _problem_batches(settings, inputs), progress)
    if matches:
        ingest_stage.write_report(run.ingest, matches)
    require_validation_signal(settings, run, read_groups(run))


def _roll_out(
    settings: Settings,
    run: RunDirectory,
    inputs: Inputs,
    models: _Models,
    rewards: RewardPool | None,
    progress: Progress,
) -> None:
    if rewards is None:
        _ingest(settings, run, inputs, progress)
        return
    engine = engine_for(settings, inputs, run, models.policy)
    stage = rollout_stage.RolloutStage(
        engine=engine,
        tokenizer=inputs.tokenizer,
        reward=completion_scorer(rewards, read_problems(run), inputs.prompt_format),
        settings=settings,
        folder=run.rollouts,
        fingerprint=inputs.fingerprints["rollouts"],
        policy_fingerprint=str(inputs.fingerprints["rollouts"]["policy"]),
    )
    with closing(engine), closing(rewards):  # the gradient passes need the memory
        for split in SPLITS:
            batches = cut_problem_batches(inputs.prompted_of(split), settings)
            rollout_stage.run_rollouts(stage, batches, f"roll out {split}", progress)
            if split == "validation":
                require_validation_signal(settings, run, read_groups(run))


def _problem_batches(settings: Settings, inputs: Inputs) -> list[Batch]:
    return [batch for split in SPLITS for batch in cut_problem_batches(inputs.prompted_of(split), settings)]


def _require_all_rollouts(settings: Settings, run: RunDirectory, inputs: Inputs) -> None:
    """Refuse to sketch a part of a run: the validation direction would be that of the part."""
    lacking = sum(
        len(batch)
        for batch in _problem_batches(settings, inputs)
        if not shard_path(run.rollouts, batch).exists()
    )
    if lacking:
        raise RunDirectoryError(
            "Every problem must have its rollouts before any is sketched",
            f"{lacking} of {len(inputs.problems)} problems in {run.root} have none yet",
            "Run `gradcurate rollout` first.",
        )


def _sketch(
    settings: Settings, run: RunDirectory, inputs: Inputs, models: _Models, progress: Progress
) -> None:
    groups = read_groups(run)
    require_validation_signal(settings, run, groups)
    live = _live_rollouts(settings, run, groups)
    references = _references(settings, inputs, live["validation"])
    directed = [r for r in (*live["validation"], *references["validation"]) if r.weight]
    if not directed:
        raise NoSignalError(
            "At least one validation rollout must have a weight",
            f"--advantage {settings.advantage} gives none any, as grpo_passk does where the best are equal",
            "Use another --advantage in a new --run.",
        )
    stage = sketch_stage.SketchStage(
        sketcher=models.sketcher,
        folder=run.sketches,
        direction=run.direction,
        fingerprint={
            **inputs.fingerprints["sketches"],
            VALIDATION_ROLLOUTS: _direction_digest(directed),
        },
        mismatch_limit=settings.mismatch_limit if models.gradients is models.policy else math.inf,
        scorer=settings.scorer,
    )
    validation, pool = (
        _batches(settings, _rows(settings, live[split])) + _batches(settings, references[split])
        for split in SPLITS
    )
    require_same_shards(run.sketches, stage.fingerprint)
    sketch_stage.require_same_direction(stage)
    sketch_stage.remove_other_shards(stage, [*validation, *pool])
    rows = ((r.problem_id, r.rollout, r.weight) for batch in validation for r in batch if r.weight)
    write_direction_weights(run, rows, stage.fingerprint)
    sketch_stage.run_validation_sketches(stage, validation, progress)
    sketch_stage.run_pool_sketches(stage, pool, progress)


def _references(
    settings: Settings, inputs: Inputs, sampled: Sequence[LiveRollout]
) -> dict[Split, list[LiveRollout]]:
    """Return the reference answers that the score or the direction asks for, weighed for the latter."""
    wanted = {
        "pool": "gold" in parse_expression(settings.score).names,
        "validation": settings.validation_signal != "policy",
    }
    found = {split: inputs.reference_answers(split, settings) for split in SPLITS if wanted[split]}
    for split, answers in found.items():
        if not answers.answers:
            raise ProblemsError(
                "Reference answers must be there, and fit the policy's context after their prompts",
                f"no problem of the {split} has such a one",
                "Look at --gold-column.",
            )
    have_signal = {r.problem_id for r in sampled} if settings.validation_signal == "both" else set()
    weighting = Weighting(settings.advantage, settings.token_weight)
    rows: dict[Split, list[LiveRollout]] = {"pool": [], "validation": []}
    for split, answers in found.items():
        weights = {
            problem_id: reference_weight(weighting, settings.rollouts, len(ids))
            for problem_id, ids in answers.answers.items()
            if split == "validation" and problem_id not in have_signal
        }
        mine = [problem for problem in inputs.problems if problem.split == split]
        rows[split] = answers.rollouts(mine, weights)
    return rows


def _live_rollouts(
    settings: Settings, run: RunDirectory, groups: Sequence[Group]
) -> dict[Split, list[LiveRollout]]:
    tokens = read_rollouts(run, TOKEN_COLUMNS)
    live = {split: live_rollouts(tokens, split, split_weights(groups, split, settings)) for split in SPLITS}
    if settings.validation_signal == "gold":  # sketched nevertheless, so that scores can go back to them
        live["validation"] = [replace(r, weight=0.0) for r in live["validation"]]
    return live


def _direction_digest(live: Sequence[LiveRollout]) -> str:
    return digest([[*r.identity, r.weight] for r in live])


def _batches(settings: Settings, rows: Sequence[LiveRow]) -> list[tuple[LiveRow, ...]]:
    return cut_batches(rows, lambda r: r.tokens, lambda r: r.identity, settings.batch_tokens)


def _rows(settings: Settings, live: Sequence[LiveRollout]) -> Sequence[LiveRow]:
    return live_groups(live) if settings.granularity == "problem" else live


def _score(settings: Settings, run: RunDirectory, inputs: Inputs) -> None:
    fingerprint = {**inputs.fingerprints["sketches"], **settings.of_scoring}
    write_scores(settings, run, fingerprint, Rescoring())


def _rescore(settings: Settings, run: RunDirectory) -> None:
    """Rank a run by later rewards, from the sketches it has."""
    made_of = read_fingerprint(shard_paths(run.sketches)[0])
    fingerprint = {**made_of, **settings.of_scoring, **reward_fingerprint(settings)}
    write_scores(settings, run, fingerprint, Rescoring())
