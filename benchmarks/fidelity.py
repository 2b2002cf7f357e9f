"""How faithful a run's scores are to exact gradients, held against the bars that the README states.

    python benchmarks/fidelity.py --run runs/arithmetic --problems 40

Prints what `gradcurate verify` prints, and fails if a rank correlation is below its bar.
"""

import argparse
import sys

import gradcurate
from gradcurate_cli.verify import show_verification

LOWEST_SPEARMAN_OF_SCORE = 0.99
LOWEST_SPEARMAN_OF_SKETCHED_COSINE = 0.96


def main() -> int:
    """Verify a run; return 1 if it misses a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--problems", type=int, default=40)
    options = parser.parse_args()
    found = gradcurate.verify(options.run, problems=options.problems)
    show_verification(found)
    holds = (
        found.score.spearman >= LOWEST_SPEARMAN_OF_SCORE
        and found.sketched_cosine.spearman >= LOWEST_SPEARMAN_OF_SKETCHED_COSINE
    )
    print(
        f"bars: score >= {LOWEST_SPEARMAN_OF_SCORE}, sketches alone >= "
        f"{LOWEST_SPEARMAN_OF_SKETCHED_COSINE}: {'held' if holds else 'MISSED'}"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
