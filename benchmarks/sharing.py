"""What it saves to let a problem's rollouts share their prompt (``--granularity problem``).

    python benchmarks/sharing.py

Eight rollouts a problem of random tokens on SmolLM2-135M, all sketched: one row a rollout against
one row a problem. Ratios within a repetition, medians over three.
"""

from dataclasses import replace

import numpy as np
from material import BATCH_TOKENS, demo_policy
from measuring import median_ratio, seconds, write_table

from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.halving import Budget
from gradcurate.sketches.live_rollouts import LiveRollout, LiveRow, live_groups
from gradcurate.sketches.live_sketches import sketch_rows
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher

CASES = [(30, 40), (100, 40), (300, 40), (300, 100), (40, 300)]
PROBLEMS, GROUP, REPETITIONS = 2, 8, 3


def random_rollouts(prompt: int, completion: int) -> list[LiveRollout]:
    """Return the rollouts of a few problems."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 49152, (PROBLEMS, prompt)).tolist()
    completions = rng.integers(0, 49152, (PROBLEMS, GROUP, completion)).tolist()
    return [
        LiveRollout(f"p{p}", number, "pool", prompts[p], completions[p][number], (-1.0) ** number)
        for p in range(PROBLEMS)
        for number in range(GROUP)
    ]


def main() -> None:
    """Measure every case."""
    sketcher = replace(build_sketcher(demo_policy().model, Projection(4096)), budget=Budget(BATCH_TOKENS + 1))

    def sketch(rows: list[LiveRow]) -> None:
        for batch in cut_batches(rows, lambda r: r.tokens, lambda r: r.identity, BATCH_TOKENS):
            sketch_rows(sketcher, batch)

    table = []
    for prompt, completion in CASES:
        rollouts = random_rollouts(prompt, completion)
        groups = live_groups(rollouts)
        work = {"rollout": lambda r=rollouts: sketch(r), "problem": lambda g=groups: sketch(g)}
        times = seconds(work, REPETITIONS)
        ratio = median_ratio(times, "problem", "rollout")
        tokens = sum(r.tokens for r in rollouts), sum(g.tokens for g in groups)
        table.append([prompt, completion, f"{tokens[1] / tokens[0]:.2f}", f"{ratio:.2f}"])
    write_table(
        "sharing",
        ["prompt tokens", "response tokens", "tokens: problem / rollout", "time: problem / rollout"],
        table,
    )


if __name__ == "__main__":
    main()
