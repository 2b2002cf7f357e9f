"""The gate on the demo, on a validation set that the policy is too weak for, and on shuffled rewards.

    python benchmarks/gate.py --run runs/arithmetic

Fails unless the gate is silent on the demo and fires on the weak one: the pool's own two-digit sums and
products and sums of three terms, which SmolLM2 hardly ever solves. Shuffling rewards within their groups
leaves gradients without a direction: the table says what cosines halves have then. It goes into
docs/reliability.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from measuring import RELIABILITY_PAGE, write_table

import gradcurate
from gradcurate.errors import NoSignalError, UnreliableError
from gradcurate.results import read_groups, read_problems
from gradcurate.scores.confidence import require_believable
from gradcurate.scores.evidence import Weighting
from gradcurate.scores.groups import Group
from gradcurate.scores.stage import read_validation
from gradcurate.scores.validation import DirectionCheck, check_direction
from gradcurate.scoring import read_confidence, score_settings
from gradcurate.store.run_directory import RunDirectory

EXAMPLE = Path("examples/arithmetic")
HARD = ("sum3-1", "sum-2", "product-2")
SHUFFLES = 200


def check(run: RunDirectory, groups: Sequence[Group]) -> DirectionCheck | None:
    """Return what halves of a run's validation direction say under some rewards."""
    settings = score_settings(run)
    live = {group.problem_id: group for group in groups if group.status == "scored"}
    chosen = read_validation(
        "validation",
        run.sketches,
        {problem.problem_id: problem for problem in read_problems(run) if problem.split == "validation"},
        live,
        {problem_id: group.rollouts_G.tolist() for problem_id, group in live.items()},
        Weighting(settings.advantage, settings.token_weight),
    )
    return check_direction(chosen.problems, "sum") if chosen.problems else None


def weak_run(folder: Path) -> RunDirectory:
    """Score a few problems against those that the policy hardly ever solves."""
    pool, validation = (
        [json.loads(line) for line in (EXAMPLE / f"{name}.jsonl").read_text().splitlines()]
        for name in ("validation", "pool")
    )
    files = {"pool": pool[:6], "validation": [row for row in validation if row["source"] in HARD]}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = RunDirectory(folder / "run")
    gradcurate.score(
        config=EXAMPLE / "gradcurate.toml",
        **{name: str(folder / f"{name}.jsonl") for name in files},
        run=str(run.root),
    )
    return run


def fires(run: RunDirectory) -> bool:
    """Say whether a selection from the run is refused."""
    try:
        require_believable(read_confidence(run))
    except UnreliableError as error:
        print(error)
        return True
    return False


def row(name: str, found: DirectionCheck, gate: str) -> list[str]:
    """Return a row of the table."""
    cosines = [None if c is None else f"{c:.2f}" for c in (found.over_rollouts, found.over_problems)]
    return [name, str(found.problems), f"{found.rollouts:.0f}", *(c or "unknown" for c in cosines), gate]


def main() -> None:
    """Compare, and fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/arithmetic", help="the demo's run")
    demo = RunDirectory(Path(parser.parse_args().run))
    groups = [group for group in read_groups(demo) if group.split == "validation"]
    rows = [row("the demo", read_confidence(demo).sets[0].direction, "fires" if fires(demo) else "silent")]
    with tempfile.TemporaryDirectory() as folder:
        try:
            weak = weak_run(Path(folder))
            rows.append(
                row(
                    "validation too hard",
                    read_confidence(weak).sets[0].direction,
                    "fires" if fires(weak) else "silent",
                )
            )
        except NoSignalError as error:
            sys.exit(f"the weak run has no direction at all: {error}")
    generator = np.random.default_rng(0)
    shuffled = []
    for _ in range(SHUFFLES):
        found = check(demo, [replace(g, rewards_G=generator.permutation(g.rewards_G)) for g in groups])
        shuffled.append((found.over_rollouts, found.over_problems))
    for percent in (50, 95, 99):
        over_rollouts, over_problems = np.percentile(np.array(shuffled), percent, axis=0)
        name = f"the demo, rewards shuffled: {percent} of 100 are below"
        rows.append([name, rows[0][1], rows[0][2], f"{over_rollouts:.2f}", f"{over_problems:.2f}", ""])
    header = ["validation", "problems with a signal", "rollouts", "halves of rollouts", "of problems", "gate"]
    write_table("gate", header, rows, RELIABILITY_PAGE)
    if [line[-1] for line in rows[:2]] != ["silent", "fires"]:
        sys.exit("the gate must be silent on the demo, and fire on the validation set that is too hard")


if __name__ == "__main__":
    main()
