"""The verbs of gradcurate as functions; the command line calls these and prints what they return.

Settings are the fields of `gradcurate.config.Settings`, as keywords. Imports are inside the
functions, so that a verb which needs no model loads no torch.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gradcurate.config import load_settings, reward_setting_names
from gradcurate.errors import SettingsError
from gradcurate.progress import Progress, Silent
from gradcurate.suggestion import choose_from

if TYPE_CHECKING:
    from gradcurate.report.audit import Suspect
    from gradcurate.report.inspection import Inspection
    from gradcurate.report.summary import Summary
    from gradcurate.report.verification import Verification
    from gradcurate.selection.selection import Strategy


@dataclass(frozen=True)
class RolloutReport:
    """What `rollout` left in a run directory.

    Attributes:
        run: The run directory.
        bad_rows: How many rows of the files were set aside.
        rollouts: How many rollouts it holds.
        failed_rollouts: How many of those have no reward.
        pool_statuses: Pool problems by status.
        validation_statuses: Validation problems by status.
    """

    run: str
    bad_rows: int
    rollouts: int
    failed_rollouts: int
    pool_statuses: dict[str, int]
    validation_statuses: dict[str, int]


@dataclass(frozen=True)
class RewardReport:
    """What `reward` changed in a run directory.

    Attributes:
        run: The run directory.
        rollouts: How many rollouts were rewarded.
        changed_rewards: How many have another reward than the one they were sampled with.
        failed_rollouts: How many have none.
        pool_statuses: Pool problems by status.
        validation_statuses: Validation problems by status.
        numerator: What scores are computed from: ``exact`` derivatives, or ``sketched`` where the rewards of
            validation problems have changed; None if the run has no scores.
    """

    run: str
    rollouts: int
    changed_rewards: int
    failed_rollouts: int
    pool_statuses: dict[str, int]
    validation_statuses: dict[str, int]
    numerator: str | None


@dataclass(frozen=True)
class SketchReport:
    """What `sketch` left in a run directory.

    Attributes:
        run: The run directory.
        sketches: How many rollouts have a sketch.
        sketch_bytes: What their shards weigh.
        direction_norm: The length of the validation gradient.
    """

    run: str
    sketches: int
    sketch_bytes: int
    direction_norm: float


@dataclass(frozen=True)
class SelectReport:
    """What `select` wrote.

    Attributes:
        run: The run directory.
        strategy: How problems were chosen.
        selected: How many were.
        scored: Out of how many with a score.
        inseparable: How many problems, selected or left, have the cut within their score's interval.
        export: The dataset's path.
        recipe: The path of the instructions for the trainer.
        notes: What the export had to rename, and the like.
    """

    run: str
    strategy: str
    selected: int
    scored: int
    inseparable: int
    export: str
    recipe: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """What `audit` found.

    Attributes:
        run: The run directory.
        tested: How many problems have a derivative whose error is known.
        false_share: The share of those listed as ``against`` that may be so by chance.
        file: The CSV file.
        suspects: The problems to check.
    """

    run: str
    tested: int
    false_share: float
    file: str
    suspects: "tuple[Suspect, ...]"


def score(
    *, config: str | Path | None = None, progress: Progress | None = None, **settings: Any
) -> "Summary":
    """Rank a pool: sample, reward, sketch and score, going on from whatever the run directory has.

    Args:
        config: A TOML file of settings; keywords win over it.
        progress: Who is told how far it is.
        **settings: Fields of `gradcurate.config.Settings`.

    Raises:
        GradcurateError: See `gradcurate.errors`.
    """
    from gradcurate import pipeline

    resolved = load_settings(settings, config)
    pipeline.score(resolved, progress or Silent())
    return summary(resolved.run)


def rollout(
    *, config: str | Path | None = None, progress: Progress | None = None, **settings: Any
) -> RolloutReport:
    """Sample and reward the rollouts of a run, and stop there; arguments as in `score`."""
    from gradcurate import pipeline
    from gradcurate.problems.bad_rows import count_bad_rows
    from gradcurate.results import read_groups
    from gradcurate.store.run_directory import RunDirectory

    resolved = load_settings(settings, config)
    pipeline.rollout(resolved, progress or Silent())
    run = RunDirectory(Path(resolved.run))
    groups = read_groups(run)
    failed = sum(group.failed for group in groups)
    return RolloutReport(
        run=resolved.run,
        bad_rows=count_bad_rows(run.bad_rows),
        rollouts=sum(len(group.rewards_G) for group in groups) + failed,
        failed_rollouts=failed,
        pool_statuses=dict(Counter(group.status for group in groups if group.split == "pool")),
        validation_statuses=dict(Counter(group.status for group in groups if group.split == "validation")),
    )


def reward(run: str | Path, *, progress: Progress | None = None, **settings: Any) -> RewardReport:
    """Reward the rollouts of a run again, touching neither them nor their sketches, and rank it anew.

    Args:
        run: The run directory.
        progress: Who is told how far it is.
        **settings: The fields of `gradcurate.config.Settings` that begin with ``reward``; what is not given
            is as in the run.
    """
    from gradcurate import pipeline
    from gradcurate.results import read_groups, read_rollouts, read_scores, validation_statuses
    from gradcurate.rollouts.rollout import ROLLOUTS_SCHEMA
    from gradcurate.scoring import score_settings
    from gradcurate.store.run_directory import RunDirectory
    from gradcurate.store.tables import read_shards

    directory = RunDirectory(Path(run))
    before = asdict(score_settings(directory))
    resolved = load_settings({**before, **_only_reward_settings(settings), "run": str(run)})
    pipeline.reward(resolved, progress or Silent())
    first = read_shards(directory.rollouts, ROLLOUTS_SCHEMA, ["reward"])["reward"].to_pylist()
    second = read_rollouts(directory, ["reward"])["reward"].to_pylist()
    groups = read_groups(directory)
    scores = read_scores(directory) if directory.scores.exists() else None
    of_pool = [group.status for group in groups if group.split == "pool"]
    return RewardReport(
        run=str(run),
        rollouts=len(second),
        changed_rewards=sum(a != b for a, b in zip(first, second, strict=True)),
        failed_rollouts=second.count(None),
        pool_statuses=dict(Counter(of_pool if scores is None else scores["status"].to_pylist())),
        validation_statuses=validation_statuses(directory, groups, resolved),
        numerator=None if scores is None else next(filter(None, scores["numerator"].to_pylist()), None),
    )


def _only_reward_settings(settings: dict[str, Any]) -> dict[str, Any]:
    known = reward_setting_names()
    for name in settings:
        if name not in known:
            expected = "A run is rewarded again with settings of rewards only"
            raise SettingsError(expected, f"{name!r} is none", choose_from(name, known))
    return settings


def rescore(
    run: str | Path,
    *,
    validation_run: str | Path | Sequence[str | Path] | None = None,
    exclude_rollouts: str | None = None,
    top: int = 10,
    **settings: Any,
) -> "Summary":
    """Rank a run anew from the rows that it has, in seconds and without a model.

    Args:
        run: The run directory.
        validation_run: Aim at the validation set of this run, or of these, instead of the run's own.
        exclude_rollouts: Leave out the rollouts that this file lists (problem_id, rollout), or ``truncated``.
        top: As in `summary`.
        **settings: The fields of `gradcurate.config.Settings` that scores depend on: advantage, token_weight,
            score, and those that begin with ``validation_``; those not given are as in the present scores.
    """
    from gradcurate import scoring
    from gradcurate.store.run_directory import RunDirectory

    given = [validation_run] if isinstance(validation_run, str | Path) else validation_run or ()
    scoring.rescore(RunDirectory(Path(run)), settings, [str(one) for one in given], exclude_rollouts)
    return summary(run, top=top)


def sketch(
    *, config: str | Path | None = None, progress: Progress | None = None, **settings: Any
) -> SketchReport:
    """Sketch the rollouts of a run, and stop there; arguments as in `score`."""
    import pyarrow.parquet as pq

    from gradcurate import pipeline
    from gradcurate.sketches.direction_record import read_record
    from gradcurate.store.run_directory import RunDirectory
    from gradcurate.store.tables import shard_paths

    resolved = load_settings(settings, config)
    pipeline.sketch(resolved, progress or Silent())
    run = RunDirectory(Path(resolved.run))
    shards = shard_paths(run.sketches)
    return SketchReport(
        run=resolved.run,
        sketches=sum(pq.read_metadata(path).num_rows for path in shards),
        sketch_bytes=sum(path.stat().st_size for path in shards),
        direction_norm=read_record(run.direction).norm,
    )


def select(
    run: str | Path,
    *,
    top_k: int | None = None,
    top_fraction: float | None = None,
    format: Literal["verl", "trl", "jsonl"] = "jsonl",  # noqa: A002
    out: str | Path | None = None,
    accept_unreliable: bool = False,
) -> SelectReport:
    """Write the best problems of a scored run as a dataset that a trainer loads.

    Args:
        run: The run directory.
        top_k: How many problems to take.
        top_fraction: Or which share of the problems that have a score.
        format: For which trainer.
        out: Where to; the run's own ``exports/<format>`` by default.
        accept_unreliable: Select although the validation direction is mostly noise, and say so in the export.

    Raises:
        UnreliableError: The validation direction is mostly noise.
    """
    from gradcurate.exports.export import write_export
    from gradcurate.exports.rows import SelectedProblem
    from gradcurate.results import read_problems, read_scores
    from gradcurate.scores.confidence import require_believable, warnings
    from gradcurate.scoring import read_confidence
    from gradcurate.selection.selection import INSEPARABLE, select_problems
    from gradcurate.store.lock import locked
    from gradcurate.store.manifest import read_manifest
    from gradcurate.store.run_directory import RunDirectory
    from gradcurate.store.tables import read_fingerprint, write_table

    directory = RunDirectory(Path(run))
    manifest, scores = read_manifest(directory.manifest), read_scores(directory)
    strategy, confidence = _strategy(top_k, top_fraction), read_confidence(directory)
    selection = select_problems(scores, strategy)
    if not accept_unreliable:
        require_believable(confidence, "--accept-unreliable selects nevertheless.")
    by_id = {p.problem_id: p for p in read_problems(directory) if p.split == "pool"}
    taken = strategy.count(len(scores) - scores["rank"].null_count)
    selected = [
        SelectedProblem(by_id[row["problem_id"]], row["rank"], row["score"])
        for row in scores.slice(0, taken).to_pylist()
    ]
    with locked(directory.root):
        export = write_export(
            format,
            selected,
            manifest.prompt_format,
            Path(out) if out else directory.exports(format),
            warnings(confidence),
        )
        write_table(directory.selection, selection, "selection", read_fingerprint(directory.scores))
    return SelectReport(
        run=str(run),
        strategy=str(strategy),
        selected=taken,
        scored=len(scores) - scores["rank"].null_count,
        export=str(export.path),
        inseparable=sum(INSEPARABLE in reason for reason in selection["reason"].to_pylist()),
        recipe=str(export.path.with_name("recipe.md")),
        notes=export.notes,
    )


def verify(
    run: str | Path,
    *,
    problems: int = 32,
    device: str = "auto",
    gradient_model: str | None = None,
    progress: Progress | None = None,
) -> "Verification":
    """Compare stored scores with exact gradients, for problems spread evenly over the ranking.

    Args:
        run: The run directory.
        problems: How many problems to compare.
        device: Where to run the model.
        gradient_model: A cheaper model whose ranking is compared with the policy's.
        progress: Who is told how far it is.
    """
    from gradcurate import verifying
    from gradcurate.store.run_directory import RunDirectory

    if problems < 2:
        raise SettingsError("--problems must be at least 2", f"{problems} was given", "Use 32.")
    return verifying.verify(RunDirectory(Path(run)), problems, device, gradient_model, progress or Silent())


def inspect(run: str | Path, problem_id: str) -> "Inspection":
    """Show one problem of a run.

    Args:
        run: The run directory.
        problem_id: Its id, or the beginning of one.
    """
    from gradcurate import results
    from gradcurate.report.inspection import find_problem, inspect_problem
    from gradcurate.scoring import score_settings
    from gradcurate.store.run_directory import RunDirectory

    directory = RunDirectory(Path(run))
    problem = find_problem(results.read_problems(directory), problem_id)
    group = results.read_group(directory, problem)
    settings = score_settings(directory)
    in_pool = problem.split == "pool"
    rows = results.read_scores(directory).to_pylist() if in_pool and directory.scores.exists() else []
    return inspect_problem(
        problem,
        group,
        results.rows_of_problem(results.read_rollouts(directory), problem.split, problem.problem_id),
        results.group_weights(group, settings),
        results.read_directional(directory, problem.problem_id) if in_pool else {},
        next((row for row in rows if row["problem_id"] == problem.problem_id), None),
    )


def audit(run: str | Path, *, false_share: float = 0.2, out: str | Path | None = None) -> AuditReport:
    """List likely wrong answers of the pool, for a person to check.

    Args:
        run: The run directory.
        false_share: The share of problems listed as pointing against the direction that may do so by chance.
        out: The CSV file to write; the run's own ``audit.csv`` by default.

    Raises:
        UnreliableError: The validation direction is mostly noise, and so would be what points against it.
    """
    from gradcurate.report.audit import find_suspects, write_suspects
    from gradcurate.results import read_problems, read_scores
    from gradcurate.scores.confidence import require_believable
    from gradcurate.scoring import read_confidence
    from gradcurate.store.run_directory import RunDirectory

    if not 0 < false_share < 1:
        raise SettingsError(
            "--false-share must be above 0 and below 1", f"{false_share} was given", "Use 0.2."
        )
    directory = RunDirectory(Path(run))
    path = Path(out) if out else directory.audit
    scores = read_scores(directory).to_pylist()
    require_believable(replace(read_confidence(directory), of_direction=True))
    suspects = find_suspects(read_problems(directory), scores, false_share)
    write_suspects(path, suspects)
    tested = sum(row["p_against"] is not None for row in scores)
    return AuditReport(str(run), tested, false_share, str(path), suspects)


def summary(run: str | Path, *, by: Sequence[str] = (), top: int = 10) -> "Summary":
    """Summarise a scored run.

    Args:
        run: The run directory.
        by: Columns of the original records to compare mean scores by, besides the source.
        top: How many problems of the ranking's head and tail to show.
    """
    from gradcurate.problems.bad_rows import count_bad_rows
    from gradcurate.report.checks import read_checks
    from gradcurate.report.summary import summarise
    from gradcurate.results import read_groups, read_problems, read_scores, validation_statuses
    from gradcurate.scoring import read_confidence, score_settings
    from gradcurate.store.run_directory import RunDirectory

    if top < 0:
        raise SettingsError("--top must be 0 or more", f"{top} was given", "Use 10.")
    directory = RunDirectory(Path(run))
    scores = read_scores(directory).to_pylist()
    problems, groups = read_problems(directory), read_groups(directory)
    statuses = validation_statuses(directory, groups, score_settings(directory))
    return summarise(
        str(run),
        problems,
        groups,
        statuses,
        scores,
        count_bad_rows(directory.bad_rows),
        read_checks(directory),
        read_confidence(directory),
        by,
        top,
    )


def _strategy(top_k: int | None, top_fraction: float | None) -> "Strategy":
    from gradcurate.selection.selection import TopFraction, TopK

    if top_k is not None and top_fraction is None:
        return TopK(top_k)
    if top_fraction is not None and top_k is None:
        return TopFraction(top_fraction)
    raise SettingsError(
        "Exactly one of --top-k and --top-fraction must be given",
        "neither was" if top_k is None else "both were",
        "Use --top-k 100, or --top-fraction 0.25.",
    )
