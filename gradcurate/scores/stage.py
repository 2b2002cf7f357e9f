"""The scores stage: from stored rows to a ranking and how far it can be believed. No model, no torch.

Derivatives along the direction that was summed while sketching are exact. A direction of other weights, of
other rewards or of another run's validation set is mostly that direction still; what it differs by is taken
from sketches (`gradcurate.scores.validation.Target`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from gradcurate.errors import RunDirectoryError
from gradcurate.problems.problem import Problem
from gradcurate.scores.confidence import Confidence, SetCheck
from gradcurate.scores.evidence import Along, Evidence, Weighting, reference_weight
from gradcurate.scores.groups import Group, empty_group
from gradcurate.scores.ranking import Ranked, rank_problems
from gradcurate.scores.reliability import gain_over_half, measure_reliability, spearman_brown
from gradcurate.scores.scorer import Scorer
from gradcurate.scores.signals import learnability
from gradcurate.scores.stored import StoredRows, Wanted, read_rows
from gradcurate.scores.validation import (
    AggregationName,
    DirectionCheck,
    StoredDirection,
    Target,
    ValidationProblem,
    ValidationSet,
    aim,
    check_direction,
)
from gradcurate.sketches.live_rollouts import REFERENCE

NOWHERE = Along(0.0, 0.0)


@dataclass(frozen=True)
class ScoreStage:
    """Everything that scores are computed from.

    Attributes:
        folder: The sketch shards.
        problems: The pool.
        groups: Each problem's rewards.
        wanted: The rows that each problem with a signal should have.
        weighting: How rollouts are weighed.
        scorer: How problems are scored.
        sets: The validation sets, a direction each.
        aggregation: How validation problems make a direction.
        stored: The direction of the stored derivatives.
        seed: Of the score ``random``.
    """

    folder: Path
    problems: Sequence[Problem]
    groups: Mapping[str, Group]
    wanted: Wanted
    weighting: Weighting
    scorer: Scorer
    sets: Sequence[ValidationSet]
    aggregation: AggregationName
    stored: StoredDirection
    seed: int = 0


@dataclass(frozen=True)
class Scored:
    """What the stage leaves: the ranking, and how far it can be believed."""

    table: pa.Table
    confidence: Confidence


def run_scoring(stage: ScoreStage) -> Scored:
    """Score the pool, and measure how far the scores repeat."""
    aimed = [aim(chosen, stage.stored, stage.aggregation) for chosen in stage.sets]
    checks = [check_direction(chosen.problems, stage.aggregation) for chosen in stage.sets]
    targets = [_with_reliability(target, check) for target, check in zip(aimed, checks, strict=True)]
    along = _evidence(stage, targets)
    scores = stage.scorer(along)
    found = {evidence.problem_id for evidence in along[0]}
    ranked = Ranked(
        problems=stage.problems,
        groups=stage.groups,
        evidence=along[0],
        scores=scores,
        lacking=frozenset(stage.wanted.keys() - found),
    )
    score = stage.scorer.expression
    confidence = Confidence(
        score=score.text,
        of_direction=score.of_direction,
        sets=tuple(
            SetCheck(target.name, check, target.along.error / target.along.norm)
            for target, check in zip(targets, checks, strict=True)
        ),
        ranking=measure_reliability(along, stage.scorer),
    )
    return Scored(rank_problems(ranked, score.text if len(targets) == 1 else ""), confidence)


def _with_reliability(target: Target, check: DirectionCheck) -> Target:
    if check.cosine is None:
        return target
    times = 2.0 if check.over_rollouts is None else gain_over_half(check.rollouts)
    found = spearman_brown(check.cosine, times)
    return replace(target, along=replace(target.along, reliability=found))


def read_validation(
    name: str,
    folder: Path,
    problems: Mapping[str, Problem],
    groups: Mapping[str, Group],
    wanted: Wanted,
    weighting: Weighting,
) -> ValidationSet:
    """Return the validation problems of a run that have weights and all their sketches."""
    found = [
        ValidationProblem(
            source=problems[rows.problem_id].source,
            rollouts=tuple(wanted[rows.problem_id]),
            evidence=_of_rows(rows, groups[rows.problem_id], weighting, NOWHERE),
            sketches=rows.sketches,
        )
        for rows in read_rows(folder, "validation", wanted)
        if rows.sketches is not None
    ]
    return ValidationSet(name, tuple(p for p in found if not np.isnan(p.weights).any()))


def read_reference_validation(
    name: str, folder: Path, problems: Mapping[str, Problem], rollouts: int, weighting: Weighting
) -> ValidationSet:
    """Return those of some validation problems that have a sketch of their reference answer.

    Args:
        name: Of the set.
        folder: The sketch shards.
        problems: The problems.
        rollouts: Beside how many failures the answer is one success.
        weighting: How rollouts are weighed.
    """
    return ValidationSet(
        name,
        tuple(
            ValidationProblem(
                source=problems[rows.problem_id].source,
                rollouts=(REFERENCE,),
                evidence=_of_rows(rows, empty_group(rows.problem_id, "validation"), weighting, NOWHERE),
                sketches=rows.sketches,
                reference_weight=reference_weight(weighting, rollouts, int(rows.response_tokens[0])),
            )
            for rows in read_rows(folder, "validation", {p: [REFERENCE] for p in problems})
            if rows.sketches is not None
        ),
    )


def read_stored_direction(
    folder: Path, row_weights: Mapping[str, Mapping[Any, float]], norm: float
) -> StoredDirection:
    """Return the direction that was summed while sketching, by the weights that it was summed with.

    Raises:
        RunDirectoryError: Some of its rows are not there.
    """
    wanted = {problem_id: list(of) for problem_id, of in row_weights.items()}
    parts = {
        rows.problem_id: np.array(list(row_weights[rows.problem_id].values())) @ rows.sketches
        for rows in read_rows(folder, "validation", wanted)
        if rows.sketches is not None
    }
    if parts.keys() != wanted.keys():
        raise RunDirectoryError(
            "Every rollout that the validation direction is a sum of must have a sketch",
            f"{len(wanted) - len(parts)} of {len(wanted)} problems lack some",
            "Run `gradcurate score` with the settings of run.json: only they are made anew.",
        )
    return StoredDirection(row_weights, np.stack(list(parts.values())).sum(0), norm)


def _evidence(stage: ScoreStage, targets: Sequence[Target]) -> list[list[Evidence]]:
    """Return the evidence of each problem along each target.

    Raises:
        RunDirectoryError: A target needs sketches, and there are none.
    """
    along: list[list[Evidence]] = [[] for _ in targets]
    for rows, evidence in _read(stage):
        moved = stage.scorer.expression.of_direction and any(target.rest is not None for target in targets)
        if moved and rows.sketches is None:
            raise RunDirectoryError(
                "Scores along another direction than that of the stored derivatives need sketches",
                f"{stage.folder} has none of the pool (--scorer forward)",
                "Score into another --run; if later rewards moved the direction, removing rewards/ brings "
                "the first ones back.",
            )
        for problems, target in zip(along, targets, strict=True):
            problems.append(
                replace(
                    evidence,
                    derivatives=target.derivatives(rows.derivatives, rows.sketches),
                    sketched=None if rows.sketches is None else rows.sketches @ target.sketch,
                    along=target.along,
                )
            )
    along = [_with_mutual(stage, problems) for problems in along]
    return _with_references(stage, targets, along) if "gold" in stage.scorer.expression.names else along


def _with_references(
    stage: ScoreStage, targets: Sequence[Target], along: list[list[Evidence]]
) -> list[list[Evidence]]:
    """Add the alignment of reference answers, and the problems that have nothing else.

    Raises:
        RunDirectoryError: No reference answer has been sketched.
    """
    wanted = {problem.problem_id: [REFERENCE] for problem in stage.problems}
    found = {rows.problem_id: rows for rows in read_rows(stage.folder, "pool", wanted)}
    if not found:
        raise RunDirectoryError(
            "--score gold needs the sketches of reference answers",
            "the run has none",
            "Run `gradcurate score --score gold` with the settings of run.json: only they are made anew.",
        )
    together = []
    for target, problems in zip(targets, along, strict=True):
        known = {evidence.problem_id: evidence for evidence in problems}
        others = [_without_rows(stage, p, target) for p in found if p not in known and p in stage.groups]
        together.append(
            [
                replace(e, gold=_cosine(found[e.problem_id], target)) if e.problem_id in found else e
                for e in (*problems, *others)
            ]
        )
    return together


def _without_rows(stage: ScoreStage, problem_id: str, target: Target) -> Evidence:
    group = stage.groups[problem_id]
    unknown = np.full(len(group.rewards_G), np.nan)
    rows = StoredRows(problem_id, None, unknown, group.response_tokens_G)
    return replace(_of_rows(rows, group, stage.weighting, target.along), seed=stage.seed)


def _cosine(rows: StoredRows, target: Target) -> float:
    if rows.sketches is None:
        return math.nan
    (derivative,) = target.derivatives(rows.derivatives, rows.sketches)
    return float(derivative / (np.linalg.norm(rows.sketches) * target.along.norm))


def _read(stage: ScoreStage) -> Iterator[tuple[StoredRows, Evidence]]:
    for rows in read_rows(stage.folder, "pool", stage.wanted):
        group = stage.groups[rows.problem_id]
        evidence = _of_rows(rows, group, stage.weighting, NOWHERE)
        yield rows, replace(evidence, seed=stage.seed)


def _of_rows(rows: StoredRows, group: Group, weighting: Weighting, along: Along) -> Evidence:
    return Evidence(
        problem_id=rows.problem_id,
        weighting=weighting,
        rewards=group.rewards_G,
        lengths=group.response_tokens_G,
        derivatives=rows.derivatives,
        gram=None if rows.sketches is None else (rows.sketches @ rows.sketches.T).astype(np.float64),
        along=along,
    )


def _with_mutual(stage: ScoreStage, problems: list[Evidence]) -> list[Evidence]:
    """Add the derivatives along the pool's own direction, for which its rows are read twice more."""
    if "learnalign" not in stage.scorer.expression.names:
        return problems
    by_id = {evidence.problem_id: evidence for evidence in problems}

    def part(rows: StoredRows) -> Any:
        evidence = by_id[rows.problem_id]
        return np.nan_to_num(learnability(evidence) / evidence.norm * (evidence.weights @ rows.sketches))

    direction: Any = sum(part(rows) for rows, _ in _read(stage))
    mutual: dict[str, Float[np.ndarray, " R"]] = {
        rows.problem_id: rows.sketches @ (direction - part(rows))
        for rows, _ in _read(stage)
        if rows.sketches is not None
    }
    return [replace(evidence, mutual=mutual.get(evidence.problem_id)) for evidence in problems]
