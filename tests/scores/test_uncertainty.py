"""Intervals must cover what they say, on data whose truth is known.

The truth is ``sum_i w[i] E[x[i] | r[i]]``: the rewards are taken as they came, and with them the weights.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtrit

from gradcurate.scores.advantages import ADVANTAGES
from gradcurate.scores.evidence import Along
from gradcurate.scores.uncertainty import LEVEL, uncertainty
from scores.samples import ALONG, evidence, random_evidence

ROLLOUTS = 2**18  # of 4,096 groups of 64, a coverage of 90 % has a standard error of 0.5 %
SIZES = (8, 16, 32, 64)
NOISES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(5, size=shape),
}
REWARDS = {
    **{
        f"passed {share:.0%}": lambda rng, shape, share=share: (rng.random(shape) < share).astype(float)
        for share in (0.1, 0.25, 0.5, 0.75, 0.9)
    },
    "continuous": lambda rng, shape: rng.random(shape),
    # Most problems of a real pool are hard or easy, and few are in between.
    "of a pool": lambda rng, shape: (rng.random(shape) < rng.beta(0.6, 0.9, (shape[0], 1))).astype(float),
}


def simulate(size, rewards, noise, advantage="grpo", spread=np.ones_like, count=None, seed=0):
    """Groups with a signal, as the parts of one evidence, and the truth of each."""
    rng = np.random.default_rng(seed)
    rewards_G = rewards(rng, (count or ROLLOUTS // size, size))
    rewards_G = rewards_G[np.ptp(rewards_G, axis=1) > 0]
    lengths_G = rng.integers(5, 50, rewards_G.shape)
    means_G = 0.3 + 0.8 * rewards_G
    values_G = means_G + spread(rewards_G) * noise(rng, rewards_G.shape)
    found = evidence(
        rewards_G,
        derivatives=lengths_G * values_G,
        lengths=lengths_G,
        advantage=advantage,
        token_weight="response-mean",
    )
    return found, (found.advantages * means_G).sum(-1)


def _centred(found):
    """Rewards and weighted derivatives, less their means."""
    values = found.derivatives * found.token_weights
    return (x - x.mean(-1, keepdims=True) for x in (found.rewards, values))


def coverage(found, truth, half_width):
    assert np.isfinite(half_width).all()
    return (np.abs(found.dot - truth) <= half_width).mean()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize("size", SIZES)
def test_intervals_cover_ninety_per_cent_and_errors_are_of_the_right_size(size, rewards, noise):
    found, truth = simulate(size, REWARDS[rewards], NOISES[noise])
    known = uncertainty(found)
    assert 0.87 < coverage(found, truth, known.half_width) < 0.93
    squares = ((found.dot - truth) ** 2).sum()
    assert 0.9 < squares / (known.standard_error**2).sum() < 1.1
    # The bounds are sharp enough to see intervals that are off by a quarter.
    for scale in (3 / 4, 5 / 4):
        assert not 0.87 < coverage(found, truth, scale * known.half_width) < 0.93


@pytest.mark.parametrize("advantage", sorted(ADVANTAGES.keys() - {"grpo_passk"}))
@pytest.mark.parametrize("size", [8, 32])
def test_intervals_cover_ninety_per_cent_under_every_advantage(size, advantage):
    found, truth = simulate(size, REWARDS["continuous"], NOISES["normal"], advantage)
    assert 0.87 < coverage(found, truth, uncertainty(found).half_width) < 0.93


def test_intervals_of_passk_are_too_wide_and_never_too_narrow():
    """A single rollout has all of its weight, and its noise is half of what tells how large noise is."""
    found, truth = simulate(8, REWARDS["continuous"], NOISES["normal"], "grpo_passk")
    assert coverage(found, truth, uncertainty(found).half_width) > 0.9


def bootstrap(found, resamples=200, seed=0):
    """The ends of the percentile interval over rollouts drawn again, whose baselines are their own."""
    rng = np.random.default_rng(seed)
    groups, size = found.rewards.shape
    dots = np.zeros((resamples, groups))
    for number in range(resamples):
        places = rng.integers(0, size, (groups, size))
        drawn = replace(
            found,
            **{
                name: np.take_along_axis(getattr(found, name), places, axis=1)
                for name in ("rewards", "lengths", "derivatives")
            },
        )
        dots[number] = np.nan_to_num(drawn.dot)  # without a signal there is no gradient
    return np.quantile(dots, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


@pytest.mark.parametrize("rewards", ["passed 25%", "continuous", "of a pool"])
def test_a_bootstrap_over_rollouts_would_cover_less(rewards):
    found, truth = simulate(8, REWARDS[rewards], NOISES["normal"], count=1500)
    low, high = bootstrap(found)
    assert ((low <= truth) & (truth <= high)).mean() < 0.87
    assert 0.87 < coverage(found, truth, uncertainty(found).half_width) < 0.93


def test_residuals_alone_would_be_too_small():
    """The control of the leverage: a fit of two numbers to eight takes a quarter of the noise away."""
    found, truth = simulate(8, REWARDS["passed 25%"], NOISES["normal"])
    rewards, values = _centred(found)
    slope = (rewards * values).sum(-1, keepdims=True) / (rewards**2).sum(-1, keepdims=True)
    naive = (found.advantages**2 * (values - slope * rewards) ** 2).sum()
    assert ((found.dot - truth) ** 2).sum() / naive > 1.3


def pooled_half_width(found):
    """Half of the interval of one noise for all rollouts."""
    size = found.rewards.shape[-1]
    rewards, values = _centred(found)
    slope = (rewards * values).sum(-1, keepdims=True) / (rewards**2).sum(-1, keepdims=True)
    variance = ((values - slope * rewards) ** 2).sum(-1) / (size - 2)
    return stdtrit(size - 2, (1 + LEVEL) / 2) * np.sqrt(variance * (found.advantages**2).sum(-1))


def test_where_successes_are_noisier_intervals_are_wider_than_of_one_noise_for_all():
    found, truth = simulate(64, REWARDS["passed 25%"], NOISES["normal"], spread=lambda rewards: 1 + rewards)
    own = coverage(found, truth, uncertainty(found).half_width)
    pooled = coverage(found, truth, pooled_half_width(found))
    assert pooled + 0.05 < own
    assert 0.87 < own < 0.93
    even, of_even = simulate(64, REWARDS["passed 25%"], NOISES["normal"])
    assert coverage(even, of_even, pooled_half_width(even)) == pytest.approx(0.9, abs=0.02)


def test_only_successes_that_differ_can_tell_their_noise():
    """Of one success the noise is taken from the failures, as it must be taken from somewhere."""
    rewards = [1, 0, 0, 0, 0, 0]
    of_one = [
        uncertainty(evidence(rewards, derivatives=[success, 1, 2, 3, 2, 1])).standard_error
        for success in (0.0, 100.0)
    ]
    assert of_one[0] == pytest.approx(of_one[1])
    quiet, noisy = (
        uncertainty(evidence([1, 1, 0, 0, 0, 0], derivatives=[5 - n, 5 + n, 2, 3, 2, 1])).standard_error
        for n in (0, 3)
    )
    assert noisy > 1.5 * quiet


@pytest.mark.parametrize("size", [2, 3])
def test_two_rollouts_leave_no_residual(size):
    known = uncertainty(evidence([1, 0, 0.4][:size], derivatives=[3.0, 1.0, 5.0][:size]))
    assert np.isnan([known.standard_error, known.half_width]).tolist() == [size == 2] * 2


def test_a_sum_has_no_error_that_could_be_known():
    summed = evidence([1, 0, 0, 1], derivatives=[2.0])
    rows = evidence([1, 0, 0, 1], derivatives=[2.0, 1.0, 0.0, 4.0])
    assert np.isnan([uncertainty(summed).standard_error, uncertainty(summed).half_width]).all()
    assert np.isfinite([uncertainty(rows).standard_error, uncertainty(rows).half_width]).all()


def test_without_a_signal_there_is_none():
    known = uncertainty(evidence([1, 1, 1, 1], derivatives=[2.0, 1.0, 0.0, 4.0]))
    assert np.isnan([known.standard_error, known.half_width]).all()


def test_where_rewards_explain_all_the_error_is_not_known():
    """As where a group has but two completions, each repeated: what is left of the residuals is rounding."""
    rewards = np.array([1.0, 0.0, 0.25, 0.5])
    noise = 1e-7 * np.random.default_rng(0).normal(size=4)
    known = uncertainty(evidence(rewards, derivatives=3 * rewards - 1 + noise))
    assert np.isnan([known.standard_error, known.half_width, known.p_against]).all()
    assert uncertainty(evidence(rewards, derivatives=rewards**2)).standard_error > 0.01


def test_what_sketches_leave_open_is_added():
    exact = random_evidence(12)
    sketched = replace(exact, along=replace(ALONG, error=0.5))
    before, after = uncertainty(exact), uncertainty(sketched)
    added = after.standard_error**2 - before.standard_error**2
    assert added == pytest.approx((0.5 * exact.norm) ** 2)
    assert added > 0
    ratio = after.standard_error / before.standard_error
    assert after.half_width == pytest.approx(before.half_width * ratio)
    assert uncertainty(replace(sketched, gram=None)).standard_error == before.standard_error


def test_derivatives_in_another_unit_have_errors_in_that_unit():
    mine = random_evidence(12)
    tenfold = replace(mine, derivatives=10 * mine.derivatives, along=Along(1.0, 1.0))
    assert uncertainty(tenfold).half_width == pytest.approx(10 * uncertainty(mine).half_width)
    shifted = replace(mine, derivatives=mine.derivatives + 7.0)
    assert uncertainty(shifted).half_width == pytest.approx(uncertainty(mine).half_width)
    of_other_order = replace(mine, derivatives=mine.derivatives[::-1].copy())
    assert uncertainty(of_other_order).half_width != pytest.approx(uncertainty(mine).half_width, rel=0.01)


def test_many_groups_at_once_are_as_one_after_another():
    found, _ = simulate(8, REWARDS["continuous"], NOISES["normal"], count=20)
    at_once = uncertainty(found)
    for place in range(20):
        rows = {n: getattr(found, n)[place] for n in ("rewards", "lengths", "derivatives")}
        alone = uncertainty(replace(found, **rows))
        assert at_once.standard_error[place] == pytest.approx(float(alone.standard_error))
        assert at_once.half_width[place] == pytest.approx(float(alone.half_width))
