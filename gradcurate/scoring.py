"""From a run's stored rows to its ``scores.parquet`` and ``reliability.json``. No model, no torch.

What `score`, `reward` and `rescore` end with. Scores carry the settings that they were made with, which may
be others than those of the run (`score_settings`).
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradcurate.config import Settings, flag, load_settings, score_setting_names
from gradcurate.errors import NoSignalError, ProblemsError, RunDirectoryError, SettingsError
from gradcurate.problems import Problem, Split
from gradcurate.results import first_failure, read_groups, read_problems, read_rollouts, split_weights
from gradcurate.rollouts.exclusion import EXCLUSION_COLUMNS, Excluded, read_exclusion
from gradcurate.scores.confidence import Confidence, confidence_from
from gradcurate.scores.evidence import Weighting
from gradcurate.scores.expression import Expression, parse_expression
from gradcurate.scores.groups import Group
from gradcurate.scores.scorer import Scorer
from gradcurate.scores.stage import (
    ScoreStage,
    read_reference_validation,
    read_stored_direction,
    read_validation,
    run_scoring,
)
from gradcurate.scores.validation import StoredDirection, ValidationSet
from gradcurate.sketches.direction_record import read_record
from gradcurate.sketches.live_rollouts import TOKEN_COLUMNS, live_groups, live_rollouts
from gradcurate.store.atomic import write_json
from gradcurate.store.lock import locked
from gradcurate.store.manifest import read_manifest
from gradcurate.store.run_directory import RunDirectory, require_stage
from gradcurate.store.tables import Fingerprint, read_fingerprint, read_table, shard_paths, write_table
from gradcurate.suggestion import choose_from

SPACE_KEYS = (
    "policy",
    "gradient_model",
    "sketch_dim",
    "sketch_seed",
    "modules",
    "precondition",
    "optimizer",
    "adapter",
    "temperature",
)
"""What two runs' sketches must have in common for inner products between them to mean anything."""

WEIGHTS_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("rollout", pa.int32()),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Rescoring:
    """What scores may differ in from those of the run itself.

    Attributes:
        validation_runs: The runs whose validation sets are aimed at; the run's own where there are none.
        excluded: Rollouts left out.
    """

    validation_runs: tuple[RunDirectory, ...] = ()
    excluded: Excluded = frozenset()


def write_scores(settings: Settings, run: RunDirectory, fingerprint: Fingerprint, other: Rescoring) -> None:
    """Score a run that has its sketches.

    Args:
        settings: What it is scored with.
        run: The run.
        fingerprint: What the scores depend on.
        other: How they differ from the run's own.

    Raises:
        NoSignalError: No validation problem has a signal.
        RunDirectoryError: Sketches are missing.
    """
    problems = read_problems(run)
    groups = read_groups(run, other.excluded)
    stage = _stage(settings, run, problems, groups, other)
    scored = run_scoring(stage)
    if not shard_paths(run.rewards):  # else problems may have come to a signal later
        _require_all_sketches(scored.table)
    run.scores.unlink(missing_ok=True)  # lest a stop leaves them beside what is said of others
    write_json(run.reliability, asdict(scored.confidence))
    write_table(run.scores, scored.table, "scores", fingerprint)


def rescore(
    run: RunDirectory, given: Mapping[str, Any], validation_runs: Sequence[str], exclude: str | None
) -> None:
    """Score a run again, with other settings of scores.

    Args:
        run: The run.
        given: Fields of `Settings` that scores depend on; the others are as they were.
        validation_runs: The run directories of other validation sets; none for the run's own.
        exclude: Which rollouts to leave out (`gradcurate.rollouts.exclusion`).
    """
    for path in (run.direction_weights, run.direction):
        require_stage(path, "gradcurate score")
    settings = load_settings({**asdict(score_settings(run)), **_only_of_scores(given)})
    other = Rescoring(
        validation_runs=tuple(RunDirectory(Path(root)) for root in validation_runs),
        excluded=read_exclusion(exclude, read_rollouts(run, EXCLUSION_COLUMNS)) if exclude else frozenset(),
    )
    if settings.granularity == "problem":
        _require_same_sums(settings, run, excluding=bool(other.excluded))
    fingerprint = {
        **read_fingerprint(run.scores if run.scores.exists() else shard_paths(run.sketches)[0]),
        **settings.of_scoring,
        "validation_runs": ",".join(validation_runs) or None,
        "excluded_rollouts": exclude and f"{exclude} ({len(other.excluded)})",
    }
    with locked(run.root):
        write_scores(settings, run, fingerprint, other)


def _require_same_sums(settings: Settings, run: RunDirectory, *, excluding: bool = False) -> None:
    """Refuse to weigh anew what is kept as sums of weighted rows."""
    summed = read_manifest(run.manifest).settings
    for name in ("advantage", "token_weight"):
        if getattr(settings, name) != getattr(summed, name):
            raise _needs_rollouts(run, f"another {flag(name)}")
    if excluding:
        raise _needs_rollouts(run, "--exclude-rollouts")


def _needs_rollouts(run: RunDirectory, what: str) -> SettingsError:
    return SettingsError(
        f"Scores with {what} need a sketch for each rollout",
        f"{run.root} has one weighted sum for each problem (--granularity problem)",
        "Score into another --run.",
    )


def _only_of_scores(given: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in given:
        if name not in score_setting_names():
            expected = "A run is scored again with settings of scores only"
            raise SettingsError(expected, f"{name!r} is none", choose_from(name, score_setting_names()))
    return given


def read_confidence(run: RunDirectory) -> Confidence:
    """Return how far a run's scores can be believed."""
    require_stage(run.reliability, "gradcurate score")
    return confidence_from(json.loads(run.reliability.read_text(encoding="utf-8")))


def score_settings(run: RunDirectory) -> Settings:
    """Return the settings of a run, with those that its scores were made with."""
    settings = read_manifest(run.manifest).settings
    if not run.scores.exists():
        return settings
    made_with = read_fingerprint(run.scores)
    known = {name: made_with[name] for name in score_setting_names() if name in made_with}
    return replace(settings, **known)  # type: ignore[arg-type]  # they were fields of Settings


def scorer_of(settings: Settings, names: Sequence[str]) -> Scorer:
    """Return how a run's problems are scored.

    Args:
        settings: What they are scored with.
        names: Of the validation sets, a direction each.

    Raises:
        SettingsError: The score is none, or needs what the run does not keep.
    """
    expression = parse_expression(settings.score)
    _require_kept(settings, expression)
    if settings.source_weights and settings.validation_merge == "sum":
        raise SettingsError(
            "--validation-weights weigh the directions that --validation-merge merges",
            "it is sum, which makes one of them all",
            "Use --validation-merge mean, max, rank-sum or round-robin.",
        )
    for name in settings.source_weights:
        if name not in names:
            raise SettingsError(
                "--validation-weights must name sources of the validation set",
                f"{name!r} is none, or has no signal",
                choose_from(name, names),
            )
    if settings.validation_merge == "sum" or len(names) <= 1:
        return Scorer(expression)
    weights = tuple(settings.source_weights.get(name, 1.0) for name in names)
    return Scorer(expression, settings.validation_merge, weights)


def _require_kept(settings: Settings, expression: Expression) -> None:
    made = (settings.validation_aggregation, settings.validation_merge)
    if settings.scorer == "forward" and made != ("sum", "sum"):
        raise SettingsError(
            "--validation-aggregation and --validation-merge need sketches unless they are sum",
            f"they are {made[0]} and {made[1]}, and --scorer forward makes no sketches of the pool",
            "Use --scorer sketch in a new --run.",
        )
    for name, signal in zip(expression.names, expression.signals, strict=True):
        if signal.of_rollouts and settings.granularity == "problem":
            raise SettingsError(
                f"--score {name} needs a sketch for each rollout",
                "--granularity problem keeps one sum for each problem",
                "Use --granularity rollout in a new --run, or --score cosine or dot.",
            )
        if signal.of_sketches and settings.scorer == "forward":
            raise SettingsError(
                f"--score {name} needs sketches",
                "--scorer forward makes none of the pool",
                "Use --score dot or t, or --scorer sketch in a new --run.",
            )


def require_validation_signal(settings: Settings, run: RunDirectory, groups: Iterable[Group]) -> None:
    """Refuse to go on without a direction; reference answers always have one.

    Raises:
        NoSignalError: No validation problem has rollouts of different rewards.
    """
    validation = [group for group in groups if group.split == "validation"]
    counts = Counter(group.status for group in validation)
    if not counts["scored"] and settings.validation_signal == "policy":
        seen = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        failure = first_failure(run, "validation")
        raise NoSignalError(
            "At least one validation problem must have rollouts of different rewards",
            f"of {len(validation)} problems, {seen}",
            (f"The reward failed at first with {failure!r}: correct that. Else use" if failure else "Use")
            + " more --rollouts, a higher --temperature, a larger --max-tokens, or validation problems "
            "that the policy solves sometimes, and a new --run; "
            f"`gradcurate inspect --run {run.root} {validation[0].problem_id}` shows what it answered.",
        )


def wanted_rows(
    settings: Settings, run: RunDirectory, groups: Iterable[Group], split: Split
) -> dict[str, list[Any]]:
    """Return the rows that a split's problems with a signal should have: None is that of a problem's sum."""
    groups = list(groups)
    if settings.granularity == "rollout":
        mine = [group for group in groups if group.split == split and group.status == "scored"]
        return {group.problem_id: group.rollouts_G.tolist() for group in mine}
    live = live_rollouts(read_rollouts(run, TOKEN_COLUMNS), split, split_weights(groups, split, settings))
    return {group.problem_id: [None] for group in live_groups(live)}


def write_direction_weights(
    run: RunDirectory, rows: Iterable[tuple[str, int | None, float]], fingerprint: Fingerprint
) -> None:
    """Keep what the direction is a sum of: rows of (problem, rollout, weight)."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, WEIGHTS_SCHEMA, strict=True)], WEIGHTS_SCHEMA
    )
    write_table(run.direction_weights, table, "direction", fingerprint)


def _stored_direction(run: RunDirectory) -> StoredDirection:
    require_stage(run.direction_weights, "gradcurate score")
    weights: dict[str, dict[Any, float]] = {}
    for row in read_table(run.direction_weights).to_pylist():
        weights.setdefault(row["problem_id"], {})[row["rollout"]] = row["weight"]
    return read_stored_direction(run.sketches, weights, read_record(run.direction).norm)


def _stage(
    settings: Settings,
    run: RunDirectory,
    problems: Sequence[Problem],
    groups: Sequence[Group],
    other: Rescoring,
) -> ScoreStage:
    pool = [problem for problem in problems if problem.split == "pool"]
    sets = _validation_sets(settings, run, problems, groups, other)
    return ScoreStage(
        folder=run.sketches,
        problems=pool,
        groups={group.problem_id: group for group in groups if group.split == "pool"},
        wanted=wanted_rows(settings, run, groups, "pool"),
        weighting=Weighting(settings.advantage, settings.token_weight),
        scorer=scorer_of(settings, [chosen.name for chosen in sets]),
        sets=sets,
        aggregation=settings.validation_aggregation,
        stored=_stored_direction(run),
        seed=settings.seed,
    )


def _validation_sets(
    settings: Settings,
    run: RunDirectory,
    problems: Sequence[Problem],
    groups: Sequence[Group],
    other: Rescoring,
) -> tuple[ValidationSet, ...]:
    if not other.validation_runs:
        sets = [_validation_set(settings, run, problems, groups, "validation")]
    else:
        pool = {problem.problem_id for problem in problems if problem.split == "pool"}
        sets = [_of_other_run(settings, run, pool, one) for one in other.validation_runs]
    if settings.validation_merge == "sum":
        together = tuple(p for chosen in sets for p in chosen.problems)
        return (ValidationSet("validation", together, own=len(sets) == 1 and sets[0].own),)
    return tuple(sets) if len(sets) > 1 else sets[0].by_source()


def _validation_set(
    settings: Settings, run: RunDirectory, both: Sequence[Problem], groups: Sequence[Group], name: str
) -> ValidationSet:
    require_validation_signal(settings, run, groups)
    problems = {problem.problem_id: problem for problem in both if problem.split == "validation"}
    mine = {group.problem_id: group for group in groups if group.split == "validation"}
    weighting = Weighting(settings.advantage, settings.token_weight)
    wanted = {} if settings.validation_signal == "gold" else wanted_rows(settings, run, groups, "validation")
    sampled = read_validation(name, run.sketches, problems, mine, wanted, weighting)
    if settings.validation_signal == "policy":
        return sampled
    others = {problem_id: problem for problem_id, problem in problems.items() if problem_id not in wanted}
    references = read_reference_validation(name, run.sketches, others, settings.rollouts, weighting)
    if others and not references.problems:
        raise RunDirectoryError(
            f"--validation-signal {settings.validation_signal} needs the sketches of reference answers",
            f"{run.root} has none",
            "Score with that setting into another --run.",
        )
    return ValidationSet(name, (*sampled.problems, *references.problems))


def _of_other_run(
    settings: Settings, run: RunDirectory, pool: Collection[str], other: RunDirectory
) -> ValidationSet:
    _require_same_space(run, other)
    granularity, problems = read_manifest(other.manifest).settings.granularity, read_problems(other)
    shared = {p.problem_id for p in problems if p.split == "validation"} & set(pool)
    if shared:
        raise ProblemsError(
            "No problem may be in the pool and in the validation set",
            f"{min(shared)} and {len(shared) - 1} others of {other.root} are in both",
            "Choose another --validation-run.",
        )
    if granularity == "problem":
        _require_same_sums(settings, other)
    as_kept = replace(settings, granularity=granularity)
    found = _validation_set(as_kept, other, problems, read_groups(other), str(other.root))
    return replace(found, own=other.root.resolve() == run.root.resolve())


def _require_same_space(run: RunDirectory, other: RunDirectory) -> None:
    for one in (run, other):
        require_stage(one.direction, "gradcurate score")
    here, there = (
        {**asdict(read_manifest(one.manifest).settings), **read_fingerprint(shard_paths(one.sketches)[0])}
        for one in (run, other)
    )
    for key in SPACE_KEYS:
        if here.get(key) != there.get(key):
            raise RunDirectoryError(
                "--validation-run must be a run of the same policy with the same sketches",
                f"{key} is {there.get(key)!r} in {other.root} and {here.get(key)!r} in {run.root}",
                "Score that validation set with this run's settings.",
            )


def _require_all_sketches(scores: pa.Table) -> None:
    lacking = [row["problem_id"] for row in scores.to_pylist() if row["status"] == "not_sketched"]
    if lacking:
        raise RunDirectoryError(
            "Every rollout of a group with a learning signal must have a sketch",
            f"problem {lacking[0]} and {len(lacking) - 1} others lack some",
            "Run `gradcurate sketch` first.",
        )
