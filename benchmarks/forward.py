"""Derivatives by forward passes alone (``--scorer forward``): how exact they are, and what they cost.

    python benchmarks/forward.py

Live rollouts of the demo's questions in a chat along their validation direction, and longer essays.
Derivatives are held against those of the gradient pass (exact numerators, with sketches); the step is
found on eight rollouts of the middle, as in the product. Both passes take each batch in turn; ratios are
of the same batch, medians over batches.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from material import BATCH_TOKENS, CPU, chat_rollouts, chat_run, demo_policy, sampled_rollouts
from measuring import write_table

from gradcurate.scores.ranks import spearman
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.direction import load_direction
from gradcurate.sketches.live_rollouts import LiveRollout
from gradcurate.sketches.live_sketches import difference_rows, sketch_rows
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import BatchGradients, build_sketcher
from gradcurate.sketches.stage import STEP_ROWS
from gradcurate.sketches.step import settle_differences

LOWEST_SPEARMAN = 0.999
LARGEST_RATIO = 0.8
Batch = tuple[LiveRollout, ...]
Pass = Callable[[Batch], BatchGradients]


def cut(rollouts: Sequence[LiveRollout]) -> list[Batch]:
    """Cut rollouts as the product does."""
    return cut_batches(rollouts, lambda r: r.tokens, lambda r: r.identity, BATCH_TOKENS)


def essays(tokens: int, count: int) -> list[LiveRollout]:
    """Return essays as live rollouts."""
    return [
        LiveRollout("essay", number, "pool", prompt, completion, 1.0)
        for number, (prompt, completion) in enumerate(sampled_rollouts(tokens)[:count])
    ]


def in_turn(passes: Sequence[Pass], batches: Sequence[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivatives of each pass (passes by rollouts), and its times (passes by batches)."""
    times = np.zeros((len(passes), len(batches)))
    derivatives: list[list[torch.Tensor]] = [[] for _ in passes]
    for place, batch in enumerate(batches):
        for number, run in enumerate(passes):
            started = time.perf_counter()
            found = run(batch).directional
            times[number, place] = time.perf_counter() - started
            derivatives[number].append(found)
    return np.stack([torch.cat(parts).numpy() for parts in derivatives]), times


def by_problem(rollouts: Sequence[LiveRollout], derivatives: np.ndarray) -> np.ndarray:
    """Return each problem's weighted sum."""
    sums: dict[str, np.ndarray] = {}
    for rollout, derivative in zip(rollouts, derivatives.T, strict=True):
        sums[rollout.problem_id] = sums.get(rollout.problem_id, 0.0) + rollout.weight * derivative
    return np.stack(list(sums.values()), axis=1)


def agreement(derivatives: np.ndarray) -> tuple[float, float]:
    """Return the rank correlation of exact and forward numbers, and their distance relative to the exact."""
    exact, forward = derivatives
    rank = spearman(exact, forward)
    assert rank is not None
    return rank, float(np.linalg.norm(forward - exact) / np.linalg.norm(exact))


def main() -> int:
    """Measure; return 1 if the chat misses a bar."""
    sketcher = build_sketcher(demo_policy().model, Projection(4096))
    direction = load_direction(chat_run().direction, sketcher.space, CPU)
    chat = cut(chat_rollouts())
    with tempfile.TemporaryDirectory() as folder:
        record, started = Path(folder, "step.json"), time.perf_counter()
        sample = chat[len(chat) // 2][:STEP_ROWS]
        differences = settle_differences(sketcher, direction, sample, record)
        print(f"step found in {time.perf_counter() - started:.1f} s: {record.read_text()}", flush=True)
    passes: list[Pass] = [
        lambda batch: sketch_rows(sketcher, batch, along=direction),
        lambda batch: difference_rows(differences, batch),
    ]
    rows, held = [], True
    for name, batches in (
        ("chat", chat),
        ("essays", cut(essays(tokens=64, count=16))),
        ("essays", cut(essays(tokens=560, count=4))),
    ):
        rollouts = [r for batch in batches for r in batch]
        derivatives, times = in_turn(passes, batches)
        rank, error = agreement(derivatives)
        ratio = float(np.median(times[1] / times[0]))
        tokens = np.mean([r.tokens for r in rollouts])
        rows.append([name, len(rollouts), f"{tokens:.0f}", f"{rank:.4f}", f"{error:.1e}", f"{ratio:.2f}"])
        print(rows[-1], flush=True)
        if name == "chat":
            rank, error = agreement(by_problem(rollouts, derivatives))
            problems = len({r.problem_id for r in rollouts})
            rows.append([f"its {problems} problems", "", "", f"{rank:.4f}", f"{error:.1e}", ""])
            held = rank >= LOWEST_SPEARMAN and ratio <= LARGEST_RATIO
    write_table(
        "forward",
        [
            "derivatives of",
            "rollouts",
            "mean tokens",
            "Spearman",
            "relative error",
            "time: forward / sketches",
        ],
        rows,
    )
    print(f"bars: Spearman >= {LOWEST_SPEARMAN}, time <= {LARGEST_RATIO}: {'held' if held else 'MISSED'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
