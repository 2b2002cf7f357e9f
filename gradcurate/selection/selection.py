"""Selection: which of the scored problems are worth training on.

Only problems with a score are ever selected; none is filled in silently. Every problem of the pool
is in the result, with the reason why it was taken or left.
"""

from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa

from gradcurate.errors import NoSignalError, SettingsError

SELECTION_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("rank", pa.int64()),
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)


INSEPARABLE = "not separable from the cut"
"""Said of a problem whose score may as well lie on the other side of the cut, at 90 %."""


@dataclass(frozen=True)
class TopK:
    """Take the ``k`` problems of the highest score."""

    k: int

    def count(self, scored: int) -> int:
        """Return how many problems are taken.

        Raises:
            SettingsError: Fewer problems have a score.
        """
        if not 1 <= self.k <= scored:
            raise SettingsError(
                f"--top-k must be between 1 and the {scored} problems that have a score",
                f"{self.k} was given",
                "Ask for fewer, or give the others a signal: more rollouts or a higher temperature.",
            )
        return self.k

    def __str__(self) -> str:
        return f"top-k {self.k}"


@dataclass(frozen=True)
class TopFraction:
    """Take the best ``fraction`` of the problems that have a score, rounded, and at least one."""

    fraction: float

    def count(self, scored: int) -> int:
        """Return how many problems are taken.

        Raises:
            SettingsError: The fraction is not in (0, 1].
        """
        if not 0 < self.fraction <= 1:
            raise SettingsError(
                "--top-fraction must be above 0 and at most 1",
                f"{self.fraction} was given",
                "Use 0.25 for the best quarter of the problems that have a score.",
            )
        return TopK(max(1, round(Fraction(str(self.fraction)) * scored))).count(scored)

    def __str__(self) -> str:
        return f"top-fraction {self.fraction}"


Strategy = TopK | TopFraction


def select_problems(scores: pa.Table, strategy: Strategy) -> pa.Table:
    """Return one row per problem of the pool: weight 1 if selected, else 0, and the reason.

    Raises:
        NoSignalError: No problem has a score.
        SettingsError: The strategy asks for what there is not.
    """
    scored = len(scores) - scores["rank"].null_count
    if not scored:
        raise NoSignalError(
            "At least one problem of the pool must have a score",
            f"none of {len(scores)} has",
            "Use more --rollouts, a higher --temperature, or a pool that the policy solves sometimes.",
        )
    taken = strategy.count(scored)
    cut = _cut(scores, taken, scored)
    rows = []
    for row in scores.select(["problem_id", "rank", "status", "score_low", "score_high"]).to_pylist():
        selected = row["rank"] is not None and row["rank"] <= taken
        place = f"no score: {row['status']}" if row["rank"] is None else f"rank {row['rank']} of {scored}"
        if cut is not None and row["score_low"] is not None and row["score_low"] <= cut <= row["score_high"]:
            place += f", {INSEPARABLE}"
        rows.append(
            {
                "problem_id": row["problem_id"],
                "rank": row["rank"],
                "strategy": str(strategy),
                "reason": f"{'selected' if selected else 'left'}, {place}",
                "weight": float(selected),
            }
        )
    return pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA)


def _cut(scores: pa.Table, taken: int, scored: int) -> float | None:
    """Return the score between the last problem that is taken and the first that is left, if one is."""
    if taken == scored:
        return None
    last, first = scores["score"][taken - 1].as_py(), scores["score"][taken].as_py()
    return float((last + first) / 2)
