"""Evidence and stored rows, made by hand."""

import numpy as np
import pyarrow as pa

from gradcurate.scores.evidence import Along, Evidence, Weighting
from gradcurate.sketches.rows import sketches_schema
from gradcurate.store.tables import write_table

DIM = 8
DIRECTION_K = np.array([3.0, 4.0, 0, 0, 0, 0, 0, 0])
ALONG = Along(norm=5.5, sketched_norm=5.0)  # exact, so not quite the sketch's own length of 5


def axis(number, length=1.0):
    """A sketch along one axis, which float16 stores exactly."""
    return length * np.eye(DIM)[number]


def evidence(
    rewards,
    sketches=None,
    derivatives=None,
    lengths=None,
    problem_id="p",
    advantage="dr_grpo",
    token_weight="token-sum",
    along=ALONG,
    **fields,
):
    """Evidence of one problem; its derivatives are those of its sketches where none are given."""
    rewards = np.asarray(rewards, dtype=float)
    gram = sketched = None
    if sketches is not None:
        sketches = np.asarray(sketches, dtype=float)
        gram, sketched = sketches @ sketches.T, sketches[:, :DIM] @ DIRECTION_K
        derivatives = sketched if derivatives is None else derivatives
    return Evidence(
        problem_id=problem_id,
        weighting=Weighting(advantage, token_weight),
        rewards=rewards,
        lengths=np.ones(rewards.shape, dtype=int) if lengths is None else np.asarray(lengths),
        derivatives=np.asarray(derivatives, dtype=float),
        gram=gram,
        along=along,
        sketched=sketched,
        **fields,
    )


def random_evidence(size=8, seed=0, rewards=None, **fields):
    """Evidence of random sketches whose mean moves with the reward."""
    rng = np.random.default_rng(seed)
    rewards = rng.random(size) if rewards is None else np.asarray(rewards, dtype=float)
    moved = rewards[:, None] * rng.normal(size=DIM)
    sketches = rng.normal(size=(len(rewards), DIM)) + 3 * moved + rng.normal(size=DIM)
    fields.setdefault("lengths", rng.integers(1, 20, len(rewards)))
    return evidence(rewards, sketches, **fields)


def write_shard(folder, name, rows):
    """Rows of (problem, rollout, sketch, derivative), as the sketch stage stores them."""
    sketches = np.array([row[2] for row in rows], dtype=np.float32)
    norms = np.linalg.norm(sketches, axis=1)
    unit = (sketches / norms[:, None]).astype(np.float16)
    columns = {
        "problem_id": [row[0] for row in rows],
        "rollout": [row[1] for row in rows],
        "split": [name.partition("-")[0]] * len(rows),
        "response_tokens": [1] * len(rows),
        "logprob": [-1.0] * len(rows),
        "logprob_kl": [0.0] * len(rows),
        "logprob_gap": [0.0] * len(rows),
        "norm": norms,
        "directional": [row[3] for row in rows],
        "sketch": pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), DIM),
    }
    schema = sketches_schema(DIM)
    table = pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
    write_table(folder / f"{name}.parquet", table, "sketches", {})
