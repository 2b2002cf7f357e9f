"""How faithful a run's sketches are: its scores against exact gradients of the same rollouts.

The exact gradients come from `gradcurate.sketches.oracle`, validation included, so nothing but the
rollouts and the list of modules is shared with what is verified.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradcurate.scores.ranks import spearman


@dataclass(frozen=True)
class Fidelity:
    """Stored values against exact ones.

    Attributes:
        spearman: Rank correlation; None where either side has a single value.
        rmse: Root of the mean squared difference.
        worst: The largest absolute difference.
        worst_problem: Where it occurs.
    """

    spearman: float | None
    rmse: float
    worst: float
    worst_problem: str


@dataclass(frozen=True)
class Proxy:
    """How well a cheaper model's exact gradients rank problems as the policy's do.

    Attributes:
        model: The cheaper model.
        agreement: Its cosines against the policy's.
        seconds_ratio: What its gradients took, relative to the policy's.
    """

    model: str
    agreement: Fidelity
    seconds_ratio: float


@dataclass(frozen=True)
class Verification:
    """What `gradcurate verify` found.

    Attributes:
        problems: How many problems were compared.
        sketch_dim: K.
        ideal_rmse: 1/sqrt(K), the error of an ideal sketch's cosine.
        score: The scores, with exact numerators and sketched norms.
        sketched_cosine: The cosines of sketches alone; None where the pool has none.
        direction_error: The stored validation direction's distance from the exact one, relative to it; None
            where later rewards have moved it, so that none is stored.
        proxy: The judgement of a gradient model, where one was given or the run was made with one.
    """

    problems: int
    sketch_dim: int
    ideal_rmse: float
    score: Fidelity
    sketched_cosine: Fidelity | None
    direction_error: float | None
    proxy: Proxy | None = None


def compare(exact: Mapping[str, float], stored: Mapping[str, float]) -> Fidelity:
    """Compare stored values with the exact ones of the same problems."""
    ids = list(exact)
    truth, found = (np.array([values[problem_id] for problem_id in ids]) for values in (exact, stored))
    error = np.abs(found - truth)
    worst = int(error.argmax())
    return Fidelity(
        spearman=spearman(truth, found),
        rmse=float(np.sqrt((error**2).mean())),
        worst=float(error[worst]),
        worst_problem=ids[worst],
    )


def evenly_spaced(ranked: Sequence[str], count: int) -> list[str]:
    """Return ``count`` ids spread evenly over a ranking, its two ends included."""
    if count >= len(ranked):
        return list(ranked)
    return [ranked[round(place)] for place in np.linspace(0, len(ranked) - 1, count)]
