"""What each kind of score does on the demo's pool: wrong answers among the best quarter, and reliability.

    python benchmarks/scores.py [--runs runs/scores]

Scores the demo with three seeds (a run that is there is not sampled again), and ranks each run by every
kind. The table goes into docs/reliability.md.
"""

import argparse
import statistics
import time
from pathlib import Path

from measuring import RELIABILITY_PAGE, write_table

import gradcurate
from gradcurate.results import read_problems, read_scores
from gradcurate.scores.signals import SIGNALS
from gradcurate.scoring import read_confidence
from gradcurate.store.run_directory import RunDirectory

SEEDS = (0, 1, 2)
CONFIG = "examples/arithmetic/gradcurate.toml"
WITH_REFERENCES = "cosine + 0 * gold"  # so that reference answers are sketched too
LEFT_OUT = ("pass_rate", "mean_reward", "response_tokens")  # for expressions, and no scores of their own
FIXED = 0.999


def best_quarter(run: RunDirectory) -> tuple[float, float]:
    """Return the share of planted wrong answers among the best quarter, and among all that have a score."""
    wrong = {p.problem_id for p in read_problems(run) if p.split == "pool" and p.row["corrupted"]}
    ranked = [row["problem_id"] for row in read_scores(run).to_pylist() if row["rank"] is not None]
    best = ranked[: max(1, round(len(ranked) / 4))]
    return sum(p in wrong for p in best) / len(best), sum(p in wrong for p in ranked) / len(ranked)


def reliability(run: RunDirectory) -> str:
    """Return the split-half reliability of the ranking, as a cell."""
    found = read_confidence(run).ranking
    if found is None:
        return "unknown"
    return "no noise" if found.halves > FIXED else f"{found.reliability:.2f}"


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="runs/scores", help="where the runs are kept")
    folder = Path(parser.parse_args().runs)
    runs = [RunDirectory(folder / f"seed-{seed}") for seed in SEEDS]
    for seed, run in zip(SEEDS, runs, strict=True):
        if not run.scores.exists():
            gradcurate.score(config=CONFIG, run=str(run.root), seed=seed, score=WITH_REFERENCES)
    rows = []
    for kind in SIGNALS:
        if kind in LEFT_OUT:
            continue
        shares, alls, cells, seconds = [], [], [], []
        for run in runs:
            started = time.perf_counter()
            gradcurate.rescore(run.root, score=kind)
            seconds.append(time.perf_counter() - started)
            share, among_all = best_quarter(run)
            shares.append(share)
            alls.append(among_all)
            cells.append(reliability(run))
        rows.append(
            [
                f"`{kind.replace('_', '-')}`",
                *(f"{share:.2f}" for share in shares),
                f"{statistics.fmean(shares):.2f}",
                f"{statistics.fmean(alls):.2f}",
                *cells,
            ]
        )
        print(f"{kind}: {statistics.median(seconds):.1f} s to rescore", flush=True)
    header = [
        "score",
        *(f"wrong, seed {seed}" for seed in SEEDS),
        "mean",
        "of all scored",
        *(f"reliability, seed {seed}" for seed in SEEDS),
    ]
    write_table("scores", header, rows, RELIABILITY_PAGE)


if __name__ == "__main__":
    main()
