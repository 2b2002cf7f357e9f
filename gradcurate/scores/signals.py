"""Signals: the numbers that a score can be, or be made of (`gradcurate.scores.expression`).

Each is a function of one problem's `Evidence`, larger where a problem is worth more, and NaN where there is
none: a group whose rewards are all equal has no gradient and teaches nothing, whatever its pass rate. Only
``gold`` needs no rollout of the policy to succeed.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gradcurate.scores.evidence import Evidence, Value
from gradcurate.scores.uncertainty import noise_share, uncertainty

PASS_REWARD = 0.5
"""A rollout with at least this reward counts towards the pass rate."""
LEAST_RELIABILITY = 0.05
"""Below this share of signal, a correction for noise would multiply noise."""
FRONTIER = np.pi / 4
FRONTIER_WIDTH = 0.25


@dataclass(frozen=True)
class Signal:
    """One signal.

    Attributes:
        of: Computes it.
        of_direction: Whether it depends on the validation direction.
        of_sketches: Whether it needs sketches, which ``--scorer forward`` does not make.
        of_rollouts: Whether it needs rollouts one by one, which ``--granularity problem`` does not keep.
    """

    of: Callable[[Evidence], Value]
    of_direction: bool = False
    of_sketches: bool = False
    of_rollouts: bool = False


def cosine(evidence: Evidence) -> Value:
    """Return the alignment of GradAlign (arXiv 2602.21492, §3)."""
    return evidence.dot / (evidence.norm * evidence.along.norm)


def dot(evidence: Evidence) -> Value:
    """Return the derivative of the validation objective along the problem's gradient."""
    return evidence.dot


def norm(evidence: Evidence) -> Value:
    """Return the length of the problem's gradient."""
    return evidence.norm


def t(evidence: Evidence) -> Value:
    """Return the derivative over its standard error."""
    with np.errstate(divide="ignore", invalid="ignore"):  # equal derivatives have no error to divide by
        return np.asarray(evidence.dot / uncertainty(evidence).standard_error)


def lcb(evidence: Evidence) -> Value:
    """Return the lower end of the cosine's interval."""
    low = evidence.dot - uncertainty(evidence).half_width
    return low / (evidence.norm * evidence.along.norm)


def cosine_corrected(evidence: Evidence) -> Value:
    """Return the cosine of the gradients without their noise.

    A noisy gradient is longer than the one it estimates, so its cosine is too small by the square roots of
    both reliabilities: the shares of squared length that are signal. A direction of unknown reliability is
    left as it is.
    """
    of_problem = np.clip(1 - noise_share(evidence), LEAST_RELIABILITY, 1)
    known = 1.0 if np.isnan(evidence.along.reliability) else evidence.along.reliability
    return cosine(evidence) / np.sqrt(of_problem * max(known, LEAST_RELIABILITY))


def gold(evidence: Evidence) -> Value:
    """Return the cosine of the reference answer's gradient; there is no noise of sampling in it."""
    return np.full(evidence.live.shape, evidence.gold)


def learnalign(evidence: Evidence) -> Value:
    """Return the alignment with all other problems of the pool, both weighted by p(1 - p), added up.

    LearnAlign (arXiv 2506.11480) takes the mean over all problems; the problem itself is left out here.
    """
    if evidence.mutual is None:
        return np.full(evidence.live.shape, np.nan)
    return learnability(evidence) * (evidence.weights * evidence.mutual).sum(-1) / evidence.norm


def pass_rate(evidence: Evidence) -> Value:
    """Return the share of rewards of at least `PASS_REWARD`."""
    return _where_live(evidence, (evidence.rewards >= PASS_REWARD).mean(-1))


def mean_reward(evidence: Evidence) -> Value:
    """Return the mean reward."""
    return _where_live(evidence, evidence.rewards.mean(-1))


def response_tokens(evidence: Evidence) -> Value:
    """Return the mean length of the responses."""
    return _where_live(evidence, evidence.lengths.mean(-1))


def accgreedy(evidence: Evidence) -> Value:
    """Return how close the pass rate is to one half (arXiv 2504.03380)."""
    return -np.abs(pass_rate(evidence) - 0.5)


def learnability(evidence: Evidence) -> Value:
    """Return p(1 - p) (arXiv 2502.12272)."""
    rate = pass_rate(evidence)
    return rate * (1 - rate)


def arcus(evidence: Evidence) -> Value:
    """Return how near the frontier of p = 1/2 the pass rate probably is.

    As in ARCUS (arXiv 2609.38018): ``arcsin sqrt(p)`` has a posterior of variance 1/(4G) whatever p is; the
    score is the posterior mean of a Gaussian bump at the frontier, here of width 0.25.
    """
    size = evidence.rewards.shape[-1]
    passed = (evidence.rewards >= PASS_REWARD).sum(-1)
    angle = np.arcsin(np.sqrt((passed + 3 / 8) / (size + 3 / 4)))
    width, spread = FRONTIER_WIDTH**2, 1 / (4 * size)
    bump = np.exp(-((angle - FRONTIER) ** 2) / (2 * (width + spread)))
    return _where_live(evidence, np.sqrt(width / (width + spread)) * bump)


def random(evidence: Evidence) -> Value:
    """Return a number between 0 and 1 that depends on the problem's id and the seed alone: a control."""
    key = f"{evidence.seed} {evidence.problem_id}".encode()
    drawn = int.from_bytes(hashlib.sha256(key).digest()[:6])
    return _where_live(evidence, np.full(evidence.live.shape, drawn / 2.0**48))


def _where_live(evidence: Evidence, values: Value) -> Value:
    return np.where(evidence.live, values, np.nan)


_GRADIENT = {"of_direction": True, "of_sketches": True}

SIGNALS: Mapping[str, Signal] = {
    "cosine": Signal(cosine, **_GRADIENT),
    "dot": Signal(dot, of_direction=True),
    "t": Signal(t, of_direction=True, of_rollouts=True),
    "lcb": Signal(lcb, **_GRADIENT, of_rollouts=True),
    "cosine_corrected": Signal(cosine_corrected, **_GRADIENT, of_rollouts=True),
    "gold": Signal(gold, **_GRADIENT),
    "learnalign": Signal(learnalign, of_sketches=True),
    "norm": Signal(norm, of_sketches=True),
    "learnability": Signal(learnability),
    "accgreedy": Signal(accgreedy),
    "arcus": Signal(arcus),
    "pass_rate": Signal(pass_rate),
    "mean_reward": Signal(mean_reward),
    "response_tokens": Signal(response_tokens),
    "random": Signal(random),
}
