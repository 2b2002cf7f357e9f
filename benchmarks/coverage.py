"""How often 90 % intervals hold the truth, on synthetic rollouts whose truth is known.

    python benchmarks/coverage.py

Beside the intervals of `gradcurate.scores.uncertainty`, those of a bootstrap over rollouts whose baseline is
computed anew in every resample. The table goes into docs/reliability.md.
"""

import numpy as np
from measuring import RELIABILITY_PAGE, write_table

from gradcurate.scores.evidence import Along, Evidence, Weighting
from gradcurate.scores.uncertainty import uncertainty

GROUPS, RESAMPLES = 4000, 400
SLOPE = 0.3  # of a derivative by the reward, in standard deviations of its noise


def rewards_of(kind: str, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw groups of rewards that differ."""
    rates = generator.beta(1, 3, GROUPS)[:, None] if kind == "pool" else np.full((GROUPS, 1), 0.25)
    if kind == "continuous":
        return generator.beta(0.5, 1.5, (GROUPS, size))
    drawn = (generator.random((GROUPS, size)) < rates).astype(float)
    return drawn[np.ptp(drawn, axis=1) > 0]


def noise_of(kind: str, rewards: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw noise: normal, heavy-tailed, or twice as large for successes."""
    if kind == "heavy":
        return generator.standard_t(4, rewards.shape) / np.sqrt(2)
    return generator.standard_normal(rewards.shape) * (1 + (kind == "unequal") * rewards)


def covered(rewards: np.ndarray, noise: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Return how often the truth is in an interval: ours, and the bootstrap's."""
    derivatives = SLOPE * rewards + noise
    evidence = Evidence(
        "synthetic",
        Weighting("dr_grpo", "token-sum"),
        rewards,
        np.ones(rewards.shape, dtype=np.int64),
        derivatives,
        None,
        Along(1.0, 1.0),
    )
    truth = (evidence.weights * SLOPE * rewards).sum(-1)
    ours = np.abs(evidence.dot - truth) <= uncertainty(evidence).half_width
    size = rewards.shape[1]
    places = generator.integers(0, size, (RESAMPLES, size))
    again, values = rewards[:, places], derivatives[:, places]
    dots = ((again - again.mean(-1, keepdims=True)) * values).sum(-1)
    low, high = np.quantile(dots, [0.05, 0.95], axis=1)
    return float(ours.mean()), float(((low <= truth) & (truth <= high)).mean())


def main() -> None:
    """Fill the table."""
    rows = []
    for label, rewards_kind, noise_kind in (
        ("pass rate 1/4", "quarter", "normal"),
        ("pass rates of a pool, Beta(1, 3)", "pool", "normal"),
        ("continuous rewards", "continuous", "normal"),
        ("pool, heavy tails (t, 4 degrees)", "pool", "heavy"),
        ("pool, successes twice as noisy", "pool", "unequal"),
    ):
        cells = []
        for size in (8, 16, 64):
            generator = np.random.default_rng(size)
            rewards = rewards_of(rewards_kind, size, generator)
            ours, bootstrap = covered(rewards, noise_of(noise_kind, rewards, generator), generator)
            cells += [f"{ours:.3f}", f"{bootstrap:.3f}"]
        rows.append([label, *cells])
    header = ["rewards and noise"]
    for size in (8, 16, 64):
        header += [f"G={size}", f"bootstrap, G={size}"]
    write_table("coverage", header, rows, RELIABILITY_PAGE)


if __name__ == "__main__":
    main()
