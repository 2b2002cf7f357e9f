"""(c) Against bergson 2.5.1, from PyPI in an environment of its own, on the same tokens.

    python benchmarks/against_bergson.py --bergson .venv-bergson/bin/bergson

bergson builds an index of one row a rollout (labels on the completion, summed loss, no reward), at
its documented setting of 16 x 16 numbers a module, and at 64 x 64. From its rows, and from
gradcurate's, problems' cosines with the validation gradient are held against the exact ones.
Seconds are of whole processes, loading included; bytes are of one stored row.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from exact_cosines import exact_cosines
from material import CPU, SCRATCH, chat_rollouts, chat_run, demo_policy
from measuring import in_own_process, write_table

from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.results import read_scores
from gradcurate.scores.ranks import spearman
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.direction import load_direction
from gradcurate.sketches.live_rollouts import LiveRollout
from gradcurate.sketches.live_sketches import sketch_rows
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher

BATCH_TOKENS = 1024
IGNORED = -100


def all_rollouts() -> list[LiveRollout]:
    """Return validation and pool."""
    return [*chat_rollouts("validation"), *chat_rollouts("pool")]


def write_rows(rollouts: Sequence[LiveRollout], path: Path) -> None:
    """Write token ids and labels, as bergson takes them."""
    with path.open("w") as file:
        for r in rollouts:
            ids = [*r.prompt, *r.completion]
            labels = [IGNORED] * len(r.prompt) + list(r.completion)
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")


def build_index(bergson: str, rows: Path, side: int) -> tuple[np.ndarray, float]:
    """Let bergson build its index; return its rows and the seconds it took."""
    index = SCRATCH / f"bergson-{side}"
    shutil.rmtree(index, ignore_errors=True)
    shutil.rmtree(f"{index}.part", ignore_errors=True)
    command = [bergson, "build", str(index), "--model", str(find_checkpoint("smollm2-135m").folder)]
    command += [
        "--dataset",
        str(rows),
        "--token_batch_size",
        str(BATCH_TOKENS),
        "--projection_dim",
        str(side),
    ]
    command += ["--precision", "fp32", "--drop_columns", "False"]
    started = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stdout + finished.stderr)
    taken = time.perf_counter() - started
    sizes = json.loads((index / "info.json").read_text())["grad_sizes"]
    flat = np.memmap(index / "gradients.bin", dtype=np.float32, mode="r")
    return flat.reshape(-1, sum(sizes.values())), taken


def cosines_from(rows: Any, rollouts: Sequence[LiveRollout]) -> dict[str, float]:
    """Return problems' cosines with the validation gradient from one row a rollout."""
    sums: dict[str, Any] = {}
    target = np.zeros(rows.shape[1])
    for row, r in zip(rows, rollouts, strict=True):
        if r.split == "validation":
            target += r.weight * row.astype(np.float64)
        else:
            sums[r.problem_id] = sums.get(r.problem_id, 0.0) + r.weight * row.astype(np.float64)
    length = np.linalg.norm(target)
    return {p: float(s @ target / (np.linalg.norm(s) * length)) for p, s in sums.items()}


def line(
    name: str, seconds: float, row_bytes: int, found: Mapping[str, float], exact: Mapping[str, float]
) -> list[str]:
    """Return one line of the table."""
    left, right = (np.array([values[p] for p in exact]) for values in (found, exact))
    rmse = np.sqrt(((left - right) ** 2).mean())
    return [name, f"{seconds:.0f}", f"{row_bytes:,}", f"{spearman(left, right):.4f}", f"{rmse:.4f}"]


def sketch_as_a_process() -> None:
    """Load the model and sketch the same rollouts, numerators of the pool included."""
    started = time.perf_counter()
    rollouts = all_rollouts()
    sketcher = build_sketcher(demo_policy().model, Projection(4096))
    direction = load_direction(chat_run().direction, sketcher.space, CPU)
    places = {(r.split, *r.identity): number for number, r in enumerate(rollouts)}
    rows = np.zeros((len(rollouts), 4096), dtype=np.float32)
    for split in ("validation", "pool"):
        mine = [r for r in rollouts if r.split == split]
        for batch in cut_batches(mine, lambda r: r.tokens, lambda r: r.identity, BATCH_TOKENS):
            found = sketch_rows(sketcher, batch, along=direction if split == "pool" else None)
            for r, sketch in zip(batch, found.sketches.numpy(), strict=True):
                length = np.linalg.norm(sketch)
                rows[places[r.split, *r.identity]] = (sketch / length).astype(np.float16) * length
    np.save(SCRATCH / "gradcurate.npy", rows)
    print(json.dumps({"seconds": time.perf_counter() - started}))


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bergson", default=".venv-bergson/bin/bergson")
    parser.add_argument("--own", action="store_true", help="sketch with gradcurate, and nothing else")
    options = parser.parse_args()
    if options.own:
        sketch_as_a_process()
        return
    exact, rollouts = exact_cosines(), all_rollouts()
    write_rows(rollouts, SCRATCH / "rows.jsonl")
    seconds = in_own_process(__file__, "--own")["seconds"]
    cosines = cosines_from(np.load(SCRATCH / "gradcurate.npy"), rollouts)
    scores = {row["problem_id"]: row["score"] for row in read_scores(chat_run()).to_pylist()}
    stored = 4096 * 2 + 4 + 8  # float16 sketch, its norm, the derivative
    table = [
        line("gradcurate, score", seconds, stored, scores, exact),
        line("gradcurate, cosine of sketches", seconds, stored - 8, cosines, exact),
    ]
    for side in (16, 64):
        rows, taken = build_index(options.bergson, SCRATCH / "rows.jsonl", side)
        found = cosines_from(rows, rollouts)
        table.append(line(f"bergson, {side} x {side} a module", taken, rows.shape[1] * 4, found, exact))
    write_table(
        "bergson", ["rows of", "seconds", "bytes a row", "Spearman to exact", "rmse of the cosine"], table
    )


if __name__ == "__main__":
    main()
