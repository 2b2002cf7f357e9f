"""Evidence: what the stored rows say of one problem, small enough to keep for a whole pool.

A problem's gradient is a weighted sum over its rollouts, so everything asked of it later (a cosine, its
error, the same from half of the rollouts or under another advantage) is arithmetic on two things: each
rollout's derivative along the validation direction, and the inner products of the rollouts' sketches.

All arrays may have leading axes: `Evidence.part` gives many subsets of the rollouts at once, each with its
own baseline, and every function of an `Evidence` answers for each of them.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from gradcurate.scores.advantages import ADVANTAGES, AdvantageName, have_signal
from gradcurate.scores.token_weights import TOKEN_WEIGHTS, TokenWeightName

Value = Float[np.ndarray, "*parts"] | float
"""A number, or one for each part."""
STORAGE_ERROR = 2.0**-11
"""What float16 may lose of a stored sketch, as a share of its length."""


@dataclass(frozen=True)
class Weighting:
    """How a trainer weighs rollouts.

    Attributes:
        advantage: A preset of `gradcurate.scores.advantages`.
        token_weight: A preset of `gradcurate.scores.token_weights`.
    """

    advantage: AdvantageName
    token_weight: TokenWeightName


def reference_weight(weighting: Weighting, rollouts: int, response_tokens: int) -> float:
    """Return what a reference answer counts: as the one success among ``rollouts`` failures would."""
    rewards, lengths = np.zeros(rollouts + 1), np.full(rollouts + 1, response_tokens)
    rewards[0] = 1
    advantages = ADVANTAGES[weighting.advantage](rewards, lengths)
    return float((advantages * TOKEN_WEIGHTS[weighting.token_weight](lengths))[0])


@dataclass(frozen=True)
class Along:
    """The validation direction that derivatives are taken along.

    Attributes:
        norm: Its length.
        sketched_norm: The length of its sketch.
        error: How far a derivative may be off, as a share of the gradient's length: 0 where it is exact.
        reliability: The share of the direction's squared length that is no noise of sampling; NaN if unknown.
    """

    norm: float
    sketched_norm: float
    error: float = 0.0
    reliability: float = float("nan")


@dataclass(frozen=True)
class Evidence:
    """One problem's rewarded rollouts.

    Attributes:
        problem_id: Which problem.
        weighting: How they are weighed.
        rewards: Their rewards.
        lengths: Their response tokens.
        derivatives: ``<g, v>`` of each; NaN where it has no gradient. Of a problem that was sketched as one
            sum, only that of the sum.
        gram: The inner products of their sketches, likewise; None without sketches.
        along: The direction v.
        sketched: ``<s, S v>`` of each: the derivatives that sketches alone would give.
        mutual: ``<s, l>`` of each, l the direction of all other problems (`signals.learnalign`).
        gold: The cosine of the reference answer's gradient with v, where that was asked for.
        seed: Of what is random about its score.
    """

    problem_id: str
    weighting: Weighting
    rewards: Float[np.ndarray, "*parts G"]
    lengths: Int[np.ndarray, "*parts G"]
    derivatives: Float[np.ndarray, "*parts R"]
    gram: Float[np.ndarray, "*parts R R"] | None
    along: Along
    sketched: Float[np.ndarray, "*parts R"] | None = None
    mutual: Float[np.ndarray, "*parts R"] | None = None
    gold: float = float("nan")
    seed: int = 0

    @property
    def summed(self) -> bool:
        """Say whether only the weighted sum over the rollouts is known."""
        return self.derivatives.shape != self.rewards.shape

    @cached_property
    def live(self) -> Bool[np.ndarray, "*parts"]:
        """Say whether the rewards differ."""
        return have_signal(self.rewards)

    @cached_property
    def advantages(self) -> Float[np.ndarray, "*parts G"]:
        """Return the rollouts' advantages; NaN where the rewards do not differ."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found = ADVANTAGES[self.weighting.advantage](self.rewards, self.lengths)
        return np.where(self.live[..., None], found, np.nan)

    @cached_property
    def token_weights(self) -> Float[np.ndarray, "*parts G"]:
        """Return what one token of each response counts."""
        return TOKEN_WEIGHTS[self.weighting.token_weight](self.lengths)

    @cached_property
    def weights(self) -> Float[np.ndarray, "*parts R"]:
        """Return each row's weight in the problem's gradient, a sum's is 1; NaN where none counts."""
        if self.summed:
            return np.where(self.live[..., None], 1.0, np.nan)
        weights = self.advantages * self.token_weights
        return np.where((weights != 0).any(-1, keepdims=True), weights, np.nan)

    @cached_property
    def dot(self) -> Value:
        """Return the derivative of the problem's gradient along the direction."""
        return (self.weights * self.derivatives).sum(-1)

    @cached_property
    def norm(self) -> Value:
        """Return the length of the problem's gradient; NaN without sketches, or where gradients cancel."""
        if self.gram is None:
            return np.full(self.live.shape, np.nan)
        length = np.sqrt(np.maximum(_quadratic(self.gram, self.weights), 0))
        terms = (np.abs(self.weights) * np.sqrt(np.diagonal(self.gram, axis1=-2, axis2=-1))).sum(-1)
        return np.where(length > STORAGE_ERROR * terms, length, np.nan)

    @cached_property
    def sketched_cosine(self) -> Value:
        """Return the cosine with the direction from sketches alone; NaN without sketches."""
        if self.sketched is None:
            return np.full(self.live.shape, np.nan)
        total: np.ndarray = (self.weights * self.sketched).sum(-1)
        return total / (self.norm * self.along.sketched_norm)

    def part(self, places: Int[np.ndarray, "parts size"]) -> "Evidence":
        """Return the evidence of several subsets of the rollouts, each with a baseline of its own."""
        return replace(
            self,
            rewards=self.rewards[places],
            lengths=self.lengths[places],
            derivatives=self.derivatives[places],
            gram=None if self.gram is None else self.gram[places[:, :, None], places[:, None, :]],
            sketched=None if self.sketched is None else self.sketched[places],
            mutual=None if self.mutual is None else self.mutual[places],
        )


def _quadratic(gram: Float[np.ndarray, "*parts R R"], weights: Float[np.ndarray, "*parts R"]) -> Value:
    return np.einsum("...i,...ij,...j->...", weights, gram, weights)
