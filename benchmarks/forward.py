"""Derivatives by forward passes alone (``--scorer forward``): how exact they are, and what they cost.

    python benchmarks/forward.py

The demo's live pool rollouts and its validation direction. Derivatives are held against plain autograd, one
rollout at a time; the step is found on eight rollouts of the middle, as in the product. Times are of
the same batches in turn, against the gradient pass with sketches and numerators; ratios within a
repetition, medians over five.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from exact_cosines import exact_derivatives
from material import BATCH_TOKENS, CPU, DEMO, SCRATCH, demo_policy, demo_rollouts, sampled_rollouts
from measuring import median_ratio, seconds, write_table

from gradcurate.report.verification import spearman
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.direction import load_direction
from gradcurate.sketches.live_rollouts import LiveRollout
from gradcurate.sketches.live_sketches import difference_rows, sketch_rows
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher
from gradcurate.sketches.stage import STEP_ROWS
from gradcurate.sketches.step import settle_differences

REPETITIONS = 5
TIMED_BATCHES = 6
LOWEST_SPEARMAN = 0.999
LARGEST_RATIO = 0.8


def cut(rollouts: Sequence[LiveRollout]) -> list[tuple[LiveRollout, ...]]:
    """Cut rollouts as the product does."""
    return cut_batches(rollouts, lambda r: r.tokens, lambda r: r.identity, BATCH_TOKENS)


def essays(tokens: int) -> list[LiveRollout]:
    """Return essays as live rollouts."""
    return [
        LiveRollout("essay", number, "pool", prompt, completion, 1.0)
        for number, (prompt, completion) in enumerate(sampled_rollouts(tokens))
    ]


def errors(exact: np.ndarray, found: np.ndarray) -> list[str]:
    """Return the rank correlation, and the distance relative to the length."""
    distance = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    return [f"{spearman(exact, found):.4f}", f"{distance:.1e}"]


def main() -> None:
    """Compare, and fail if a bar is missed."""
    sketcher = build_sketcher(demo_policy().model, Projection(4096))
    direction = load_direction(DEMO.direction, sketcher.space, CPU)
    batches = cut(demo_rollouts())
    with tempfile.TemporaryDirectory() as folder:
        record, started = Path(folder, "step.json"), time.perf_counter()
        sample = batches[len(batches) // 2][:STEP_ROWS]
        differences = settle_differences(sketcher, direction, sample, record)
        print(f"step found in {time.perf_counter() - started:.1f} s: {record.read_text()}", flush=True)

    rollouts = [r for batch in batches for r in batch]
    found = torch.cat([difference_rows(differences, batch).directional for batch in batches]).numpy()
    known = exact_derivatives()
    exact = np.array([known[f"{r.problem_id} {r.rollout}"] for r in rollouts])
    ids = sorted({r.problem_id for r in rollouts})

    def dots(derivatives: np.ndarray) -> np.ndarray:
        sums = dict.fromkeys(ids, 0.0)
        for rollout, derivative in zip(rollouts, derivatives, strict=True):
            sums[rollout.problem_id] += rollout.weight * derivative
        return np.array([sums[problem_id] for problem_id in ids])

    of_rollouts, of_problems = errors(exact, found), errors(dots(exact), dots(found))
    rows = [
        [f"{len(rollouts)} rollouts", *of_rollouts],
        [f"{len(ids)} problems", *of_problems],
    ]
    write_table("forward", ["dots of", "Spearman to autograd", "relative error"], rows)

    times_table = []
    for name, timed in (
        ("demo", batches[:: max(1, len(batches) // TIMED_BATCHES)]),
        ("essays", cut(essays(tokens=64))),
        ("essays", cut(essays(tokens=560)[:4])),
    ):
        times = seconds(
            {
                "sketch": lambda b=timed: [sketch_rows(sketcher, rows, along=direction) for rows in b],
                "forward": lambda b=timed: [difference_rows(differences, rows) for rows in b],
            },
            REPETITIONS,
        )
        lengths = [r.tokens for batch in timed for r in batch]
        speeds = [sum(lengths) / statistics.median(times[by]) for by in ("sketch", "forward")]
        ratio = median_ratio(times, "forward", "sketch")
        times_table.append(
            [name, f"{np.mean(lengths):.0f}", *(f"{speed:.0f}" for speed in speeds), f"{ratio:.2f}"]
        )
    write_table(
        "forward-times",
        ["rollouts", "mean tokens", "sketches, tokens/s", "forward, tokens/s", "time: forward / sketches"],
        times_table,
    )
