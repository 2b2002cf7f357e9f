"""What a run checked of itself: the sampler's log-probabilities, and the error of sketches or of differences.

A second seed on a few rows shows that error without exact gradients: two estimates of the same
number differ by sqrt(2) times the error of either.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from gradcurate.sketches.rows import unit_sketches
from gradcurate.store.run_directory import RunDirectory
from gradcurate.store.tables import read_table, shard_paths

KEY_COLUMNS = ["problem_id", "rollout"]
MISMATCH_COLUMNS = ["response_tokens", "logprob_kl", "logprob_gap"]


@dataclass(frozen=True)
class Checks:
    """What was checked.

    Attributes:
        logprob_kl: Mean divergence of recomputed log-probabilities from the sampler's, in nats a
            token; None where the sampler's are not known.
        logprob_gap: The largest difference of a token.
        second_seed_rows: How many rows were sketched with a second seed.
        norm_error: The error of a sketched length, relative to it; a score's own error.
        cosine_error: The error of the cosine of two sketches.
        difference_error: With ``--scorer forward``, how far derivatives of two steps are apart, relatively.
        dump: Of rollouts that a trainer wrote, how many were matched, and how many not, by reason;
            None for sampled ones.
    """

    logprob_kl: float | None
    logprob_gap: float | None
    second_seed_rows: int
    norm_error: float | None
    cosine_error: float | None
    difference_error: float | None
    dump: Mapping[str, int] | None


def read_checks(run: RunDirectory) -> Checks:
    """Read the checks of a run that has been sketched."""
    shards = [read_table(path, MISMATCH_COLUMNS) for path in shard_paths(run.sketches)]
    rows = pa.concat_tables(shards).filter(pc.field("logprob_kl").is_valid())
    tokens, divergence, gap = (rows[name].to_numpy() for name in MISMATCH_COLUMNS)
    again = read_table(run.second_seed) if run.second_seed.exists() else None
    norm_error, cosine_error = (None, None) if again is None else _sketch_errors(run, again)
    return Checks(
        logprob_kl=float(tokens @ divergence / tokens.sum()) if len(rows) else None,
        logprob_gap=float(gap.max()) if len(rows) else None,
        second_seed_rows=0 if again is None else len(again),
        norm_error=norm_error,
        cosine_error=cosine_error,
        difference_error=json.loads(run.step.read_text())["disagreement"] if run.step.exists() else None,
        dump=json.loads(run.ingest.read_text()) if run.ingest.exists() else None,
    )


def _sketch_errors(run: RunDirectory, again: pa.Table) -> tuple[float, float | None]:
    """Return the errors of lengths and of cosines; the latter needs two rows."""
    keys = _keys(again)
    first = pa.concat_tables(
        read_table(path)
        for path in shard_paths(run.sketches)
        if path.name.startswith("pool-") and not set(keys).isdisjoint(_keys(read_table(path, KEY_COLUMNS)))
    )
    places = {key: place for place, key in enumerate(_keys(first))}
    first = first.take([places[key] for key in keys])
    ratios = first["norm"].to_numpy() / again["norm"].to_numpy() - 1
    above = np.triu_indices(len(keys), 1)
    differences = (_cosines(first) - _cosines(again))[above]
    return _error(ratios), _error(differences) if len(differences) else None


def _keys(table: pa.Table) -> list[tuple[str, int | None]]:
    return list(zip(*(table[name].to_pylist() for name in KEY_COLUMNS), strict=True))


def _cosines(table: pa.Table) -> Float[np.ndarray, "N N"]:
    unit = unit_sketches(table).astype(np.float32)
    cosines: np.ndarray = unit @ unit.T
    return cosines


def _error(differences: Float[np.ndarray, " N"]) -> float:
    return math.sqrt(float(np.square(differences).mean()) / 2)
