"""The ranking: one row per problem of the pool, the best first, those without a score last.

Departure from the reference implementation: a problem without a learning signal has no score. It is null
with a status, where the reference writes 0.0 and so ranks it above every problem of negative alignment. So
is a problem whose gradients cancel, as they do when a reward that is not deterministic tells equal
completions apart: what is left of them is rounding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from gradcurate.problems.problem import Problem
from gradcurate.scores.evidence import Evidence
from gradcurate.scores.groups import Group, empty_group
from gradcurate.scores.uncertainty import uncertainty

SCORES_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rank", pa.int64()),
        pa.field("score", pa.float64()),
        pa.field("score_low", pa.float64()),
        pa.field("score_high", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("pass_rate", pa.float64()),
        pa.field("mean_reward", pa.float64()),
        pa.field("reward_std", pa.float64()),
        pa.field("rollouts", pa.int32(), nullable=False),
        pa.field("failed_rollouts", pa.int32(), nullable=False),
        pa.field("numerator", pa.string()),
        pa.field("dot", pa.float64()),
        pa.field("dot_error", pa.float64()),
        pa.field("p_against", pa.float64()),
        pa.field("norm", pa.float64()),
        pa.field("cosine", pa.float64()),
        pa.field("sketched_cosine", pa.float64()),
    ]
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Ranked:
    """What there is to rank.

    Attributes:
        problems: The pool.
        groups: Each problem's rewards.
        evidence: What the rows of each say; of those that have their sketches.
        scores: The score of each of these, in the same order, NaN where it has none.
        lacking: Problems without some of their sketches.
    """

    problems: Sequence[Problem]
    groups: Mapping[str, Group]
    evidence: Sequence[Evidence]
    scores: Float[np.ndarray, " P"]
    lacking: frozenset[str] = frozenset()


def rank_problems(ranked: Ranked, score: str) -> pa.Table:
    """Return the scores of the pool's problems.

    Args:
        ranked: What there is to rank.
        score: What they are, for a signal has an interval; empty where several directions were merged.
    """
    known = {e.problem_id: (e, s) for e, s in zip(ranked.evidence, ranked.scores, strict=True)}
    rows = []
    for problem in ranked.problems:
        group = ranked.groups.get(problem.problem_id) or empty_group(problem.problem_id, problem.split)
        row: Row = {"problem_id": problem.problem_id, "source": problem.source, "status": group.status}
        row |= _reward_statistics(group)
        if problem.problem_id in ranked.lacking:
            row["status"] = "not_sketched"
        elif problem.problem_id in known:
            row |= _of_evidence(*known[problem.problem_id], score)
        elif group.status == "scored":
            row["status"] = "no_gradient"  # equal completions cancel, so that no row was made
        rows.append(row)
    return pa.Table.from_pylist(_rank(rows), schema=SCORES_SCHEMA)


def _reward_statistics(group: Group) -> Row:
    rewards, enough = group.rewards_G, len(group.rewards_G) > 1
    return {
        "pass_rate": group.pass_rate,
        "mean_reward": float(rewards.mean()) if len(rewards) else None,
        "reward_std": float(rewards.std(ddof=1)) if enough else None,
        "rollouts": len(rewards),
        "failed_rollouts": group.failed,
    }


def _of_evidence(evidence: Evidence, score: float, signal: str) -> Row:
    row = _gradient(evidence, signal) if evidence.live else {}
    if math.isnan(score):
        lacks = evidence.live and evidence.gram is not None and math.isnan(float(evidence.norm))
        return row | ({"status": "no_gradient" if lacks else "no_score"} if evidence.live else {})
    low, high = _interval(evidence, score, signal)
    return row | {"status": "scored", "score": score, "score_low": low, "score_high": high}


def _gradient(evidence: Evidence, signal: str) -> Row:
    if not signal:  # along several directions there are several
        return {} if np.isnan(evidence.norm) else {"norm": float(evidence.norm)}
    found = uncertainty(evidence)
    values = {
        "dot": evidence.dot,
        "dot_error": found.standard_error,
        "p_against": found.p_against,
        "norm": evidence.norm,
        "cosine": evidence.dot / (evidence.norm * evidence.along.norm),
        "sketched_cosine": evidence.sketched_cosine,
    }
    known: Row = {name: float(value) for name, value in values.items() if not np.isnan(value)}
    return known | {"numerator": "sketched" if evidence.along.error else "exact"}


def _interval(evidence: Evidence, score: float, signal: str) -> tuple[float | None, float | None]:
    """Return the 90 % interval of a score that is proportional to the derivative."""
    if signal not in ("cosine", "cosine_corrected", "dot", "t") or not evidence.dot:
        return None, None
    half = float(uncertainty(evidence).half_width) * abs(score / float(evidence.dot))
    return (None, None) if math.isnan(half) else (score - half, score + half)


def _rank(rows: list[Row]) -> list[Row]:
    """Sort by score, ties by id, and number the scored rows from 1."""
    ordered = sorted(rows, key=lambda row: (-row.get("score", -np.inf), row["problem_id"]))
    for rank, row in enumerate(ordered, start=1):
        row["rank"] = rank if "score" in row else None
    return ordered
