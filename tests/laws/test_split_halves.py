"""Halves of the rollouts are independent repetitions, if each has a baseline of its own.

Everything that says how far a run can be believed rests on products between halves. Laws here hold on
average over samples, so each has a bound of so many standard errors, and a control that breaks it.
"""

import math

import numpy as np
import pytest

from gradcurate.scores.evidence import Along, Evidence, Weighting
from gradcurate.scores.expression import parse_expression
from gradcurate.scores.halves import FEWEST_TO_HALVE, random_halves
from gradcurate.scores.reliability import measure_reliability, spearman_brown
from gradcurate.scores.scorer import Scorer
from gradcurate.scores.uncertainty import noise_share
from gradcurate.scores.validation import ValidationProblem, check_direction

Z_BOUND = 4.0  # standard errors of the mean; seeds are fixed, so the outcome is too
SIZES = (4, 8, 16)
DIM = 4
PASSED = 0.4
SLOPE_K = np.array([0.8, -0.4, 0.4, 0.2])
COVARIANCE_K = PASSED * (1 - PASSED) * SLOPE_K
DR_GRPO = Weighting("dr_grpo", "token-sum")


def sample(groups, size, seed=0, noise=0.5):
    """Rewards and gradients that move with them, of mean zero as score functions are on policy."""
    rng = np.random.default_rng(seed)
    rewards = (rng.random((groups, size)) < PASSED).astype(float)
    return rewards, (rewards - PASSED)[..., None] * SLOPE_K + noise * rng.normal(size=(groups, size, DIM))


def evidence(rewards, gradients, weighting=DR_GRPO):
    return Evidence(
        problem_id="p",
        weighting=weighting,
        rewards=rewards,
        lengths=np.ones(rewards.shape, dtype=int),
        derivatives=gradients[..., 0],
        gram=gradients @ np.swapaxes(gradients, -1, -2),
        along=Along(1.0, 1.0),
    )


def weighted(rewards, gradients):
    """A problem's gradient, zero where its rewards do not differ."""
    return np.einsum("ng,ngk->nk", np.nan_to_num(evidence(rewards, gradients).weights), gradients)


def halves_of(rewards, gradients, seed=1):
    sides = random_halves(rewards.shape[1], len(rewards), seed)
    return [
        (np.take_along_axis(rewards, places, 1), np.take_along_axis(gradients, places[..., None], 1), places)
        for places in sides
    ]


def z_score(samples, expected):
    return abs(samples.mean() - expected) / (samples.std() / math.sqrt(len(samples)))


@pytest.mark.parametrize("size", SIZES)
def test_the_product_of_halves_with_their_own_baselines_is_the_signal_s_squared_length(size):
    rewards, gradients = sample(60_000, size)
    half = size // 2
    sides = [weighted(r, g) for r, g, _ in halves_of(rewards, gradients)]
    squared_length = (size - 1) ** 2 * COVARIANCE_K @ COVARIANCE_K  # of the whole group's gradient
    scale = ((size - 1) / (half - 1)) ** 2
    assert z_score(scale * (sides[0] * sides[1]).sum(1), squared_length) < Z_BOUND


@pytest.mark.parametrize("size", SIZES)
def test_halves_that_share_a_baseline_are_tied_together(size):
    """The control: too short by ((G - 1)² + 1) / G², which is 0.62, 0.78 and 0.88."""
    rewards, gradients = sample(60_000, size)
    weights = np.nan_to_num(evidence(rewards, gradients).weights)
    sides = [
        np.einsum("ng,ngk->nk", np.take_along_axis(weights, places, 1), mine)
        for _, mine, places in halves_of(rewards, gradients)
    ]
    products = (sides[0] * sides[1]).sum(1)
    squared_length = (size // 2) ** 2 * COVARIANCE_K @ COVARIANCE_K
    assert z_score(products, squared_length) > 2 * Z_BOUND
    assert z_score(products, squared_length * ((size - 1) ** 2 + 1) / size**2) < Z_BOUND


@pytest.mark.parametrize("size", [4, 5, 8, 9])
def test_halves_are_disjoint_and_all_places_take_part(size):
    first, second = random_halves(size, 50, seed=3)
    assert first.shape == second.shape == (50, size // 2)
    both = np.concatenate([first, second], axis=1)
    assert all(len(set(row)) == 2 * (size // 2) for row in both.tolist())
    assert set(first.ravel().tolist()) == set(second.ravel().tolist()) == set(range(size))
    assert (random_halves(size, 50, seed=3)[0] == first).all()
    assert (random_halves(size, 50, seed=4)[0] != first).any()


@pytest.mark.parametrize("size", [3, 4, 8])
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_what_is_no_noise_of_the_squared_norm_is_the_signal_s_squared_length(size, mean):
    """Given the rewards, and whatever the gradients have in common; the plain squared length has noise."""
    rewards, gradients = sample(60_000, size)
    found = evidence(rewards, gradients + mean)
    squares = ((rewards - rewards.mean(1, keepdims=True)) ** 2).sum(1)
    truth = squares**2 * (SLOPE_K @ SLOPE_K)
    signal = (1 - noise_share(found)) * found.norm**2
    assert z_score((signal - truth)[found.live], 0.0) < Z_BOUND
    assert z_score((found.norm**2 - truth)[found.live], 0.0) > 5 * Z_BOUND


def pool(problems, size, noise, seed):
    """Problems whose derivatives move with the reward, each by a slope of its own, and these slopes."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=problems)
    rewards = rng.random((problems, size))
    derivatives = slopes[:, None] * rewards + noise * rng.normal(size=(problems, size))
    found = [
        Evidence(
            problem_id=f"p{number}",
            weighting=Weighting("grpo", "token-sum"),
            rewards=rewards[number],
            lengths=np.ones(size, dtype=int),
            derivatives=derivatives[number],
            gram=None,
            along=Along(1.0, 1.0),
        )
        for number in range(problems)
    ]
    return found, slopes


@pytest.mark.parametrize("noise", [0.5, 1.5, 4.0])
def test_the_reliability_is_the_squared_correlation_with_the_truth(noise):
    score = Scorer(parse_expression("dot"))
    found, slopes = pool(600, 32, noise, seed=2)
    measured = measure_reliability([found], score)
    with_truth = np.corrcoef(score([found]), slopes)[0, 1] ** 2
    error = (1 - with_truth) / math.sqrt(len(slopes) / 4)  # of either; halves have a little less to go by
    assert abs(measured.reliability - with_truth) < 3 * error
    assert measured.low < with_truth < measured.high
    assert abs(measured.halves - with_truth) > 0.02  # half of the rollouts know less
    assert measured.share_of_best_gain == pytest.approx(math.sqrt(measured.reliability))
    best = np.argsort(-score([found]))[: len(slopes) // 4]
    gain = slopes[best].mean() / np.sort(slopes)[-len(best) :].mean()
    assert measured.share_of_best_gain == pytest.approx(gain, abs=0.1)


def test_a_ranking_of_noise_has_no_reliability():
    found, _ = pool(600, 32, 1.0, seed=5)
    rng = np.random.default_rng(0)
    shuffled = [Evidence(**{**vars_of(e), "derivatives": rng.permutation(e.derivatives)}) for e in found]
    score = Scorer(parse_expression("dot"))
    assert abs(measure_reliability([shuffled], score).reliability) < 0.2
    assert measure_reliability([found], score).reliability > 0.5


def vars_of(found):
    return {name: getattr(found, name) for name in Evidence.__dataclass_fields__}


def test_so_many_rollouts_give_a_reliability_of_one_half():
    score = Scorer(parse_expression("dot"))
    few, slopes_of_few = pool(1500, 12, 1.5, seed=1)
    needed = measure_reliability([few], score).rollouts_for_half
    found, slopes = pool(1500, needed, 1.5, seed=3)
    assert np.corrcoef(score([found]), slopes)[0, 1] ** 2 == pytest.approx(0.5, abs=0.1)
    assert np.corrcoef(score([few]), slopes_of_few)[0, 1] ** 2 < 0.35


def validation(problems, size, noise, seed):
    rewards, gradients = sample(problems, size, seed, noise)
    live = np.ptp(rewards, axis=1) > 0
    return [
        ValidationProblem("s", tuple(range(size)), evidence(r, g), g)
        for r, g in zip(rewards[live], gradients[live], strict=True)
    ]


def true_cosine_over_rollouts(problems, size, noise, repetitions=4000):
    """Of two runs with half of the rollouts each, by running them."""
    totals = []
    for seed in (10, 11):
        rewards, gradients = sample(problems * repetitions, size // 2, seed, noise)
        totals.append(weighted(rewards, gradients).reshape(repetitions, problems, DIM).sum(1))
    products = (totals[0] * totals[1]).sum(1).mean()
    return products / ((totals[0] ** 2).sum(1).mean() + (totals[1] ** 2).sum(1).mean()) * 2


@pytest.mark.parametrize("noise", [0.5, 2.0, 6.0])
def test_halves_of_the_validation_rollouts_have_the_cosine_of_two_runs(noise):
    problems, size, runs = 12, 8, 60
    measured = np.array(
        [
            check_direction(validation(problems, size, noise, seed), "sum").over_rollouts
            for seed in range(runs)
        ]
    )
    expected = true_cosine_over_rollouts(problems, size, noise)
    assert abs(measured.mean() - expected) < Z_BOUND * measured.std() / math.sqrt(runs)
    whole = true_cosine_over_rollouts(problems, 2 * size, noise)
    assert whole == pytest.approx(spearman_brown(expected), abs=0.05)
    assert whole - expected > 0.005


def test_halves_of_shuffled_rewards_have_none():
    """Nothing of the direction is left, and it does not look as if there were."""
    rng = np.random.default_rng(0)
    measured = []
    for seed in range(60):
        rewards, gradients = sample(12, 8, seed)
        rewards = rng.permuted(rewards, axis=1)
        problems = [
            ValidationProblem("s", tuple(range(8)), evidence(r, g - g.mean(0)), g - g.mean(0))
            for r, g in zip(rewards, gradients, strict=True)
            if np.ptp(r) > 0
        ]
        measured.append(check_direction(problems, "sum").over_rollouts)
    assert abs(np.mean(measured)) < 0.1
    assert np.mean([check_direction(validation(12, 8, 0.5, s), "sum").over_rollouts for s in range(9)]) > 0.5


def lone_problem(gradient):
    """A problem whose gradient is this one."""
    return ValidationProblem(
        "s",
        (None,),
        Evidence(
            problem_id="p",
            weighting=DR_GRPO,
            rewards=np.array([1.0, 0.0, 0.0, 1.0]),
            lengths=np.ones(4, dtype=int),
            derivatives=np.array([0.0]),
            gram=np.array([[gradient @ gradient]]),
            along=Along(1.0, 1.0),
        ),
        gradient[None],
    )


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.6])
def test_halves_of_the_validation_problems_have_the_cosine_of_two_sets(noise):
    """And the jackknife's error is that of the measurement."""
    problems, runs, dim, rng = 20, 200, 64, np.random.default_rng(7)
    signal_K = np.pad(SLOPE_K, (0, dim - DIM))
    checks = [
        check_direction([lone_problem(g) for g in signal_K + noise * rng.normal(size=(problems, dim))], "sum")
        for _ in range(runs)
    ]
    measured = np.array([check.over_problems for check in checks])
    signal, half = SLOPE_K @ SLOPE_K, problems / 2
    expected = half * signal / (half * signal + dim * noise**2)
    assert abs(measured.mean() - expected) < Z_BOUND * measured.std() / math.sqrt(runs) + 0.01
    assert abs(measured.mean() - spearman_brown(expected)) > 0.02  # the cosine of two sets of this size
    errors = np.array([check.over_problems_error for check in checks])
    assert 0.8 < np.median(errors) / measured.std() < 1.25


def test_fewer_rollouts_than_two_halves_of_two_cannot_be_halved():
    assert check_direction(validation(12, FEWEST_TO_HALVE - 1, 0.5, 0), "sum").over_rollouts is None
    assert check_direction(validation(12, FEWEST_TO_HALVE, 0.5, 0), "sum").over_rollouts > 0
