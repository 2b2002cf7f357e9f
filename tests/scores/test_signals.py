"""The numbers that scores are made of."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradcurate.scores.evidence import Along
from gradcurate.scores.expression import parse_expression
from gradcurate.scores.scorer import Scorer
from gradcurate.scores.signals import (
    LEAST_RELIABILITY,
    PASS_REWARD,
    SIGNALS,
    cosine_corrected,
    learnalign,
)
from gradcurate.scores.uncertainty import uncertainty
from scores.samples import ALONG, DIM, DIRECTION_K, axis, evidence, random_evidence

NAN = math.nan
OF_ROLLOUTS = replace(ALONG, reliability=0.5)

# Weights 1/2, -1/2, 0: a gradient of (6, 0, -8, ...), whose derivative is half of 22.
SMALL = evidence(
    [1, 0, 0.5],
    [axis(0, 12), axis(2, 16), axis(5)],
    [22, 0, 5],
    lengths=[2, 4, 9],
    mutual=np.array([3.0, 1, 7]),
)
RATE = 2 / 3


def value(name, of):
    return float(SIGNALS[name].of(of))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dot", 11),
        ("norm", 10),
        ("cosine", 11 / 55),
        ("pass_rate", RATE),
        ("mean_reward", 0.5),
        ("response_tokens", 5),
        ("accgreedy", -(RATE - 0.5)),
        ("learnability", RATE * (1 - RATE)),
        ("learnalign", RATE * (1 - RATE) * (3 - 1) / 2 / 10),
    ],
)
def test_small_cases(name, expected):
    assert value(name, SMALL) == pytest.approx(expected)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("reward", [0.0, 0.5, 1.0])
def test_without_a_signal_they_are_nan_and_never_zero(name, reward):
    """Through a scorer: of a group without a signal, only the reference answer's gradient is known."""
    dead = random_evidence(rewards=[reward] * 6, along=OF_ROLLOUTS, mutual=np.ones(6), gold=0.25)
    live = random_evidence(rewards=[reward] * 5 + [2.0], along=OF_ROLLOUTS, mutual=np.ones(6), gold=0.25)
    score = Scorer(parse_expression(name))
    [of_dead, of_live] = score([[dead, live]])
    assert math.isfinite(of_live)
    assert of_dead == 0.25 if name == "gold" else math.isnan(of_dead)


@pytest.mark.parametrize("name", SIGNALS)
def test_halves_without_a_signal_are_nan_beside_others_that_have_one(name):
    whole = random_evidence(rewards=[0, 0, 0, 0, 1, 1, 1, 0], along=OF_ROLLOUTS, mutual=np.ones(8), gold=0.25)
    parts = whole.part(np.array([[0, 1, 2, 3], [4, 5, 6, 7], [3, 4, 0, 5]]))
    values = SIGNALS[name].of(parts)
    assert np.isnan(values).tolist() == [name != "gold", False, False]


@pytest.mark.parametrize("name", SIGNALS)
def test_many_parts_at_once_are_as_one_after_another(name):
    whole = random_evidence(8, along=OF_ROLLOUTS, mutual=np.arange(8.0), gold=0.25)
    places = np.array([[0, 3, 2, 5, 7], [6, 7, 1, 2, 3]])
    at_once = SIGNALS[name].of(whole.part(places))
    for part, mine in enumerate(places):
        alone = evidence(
            whole.rewards[mine],
            derivatives=whole.derivatives[mine],
            lengths=whole.lengths[mine],
            along=OF_ROLLOUTS,
            mutual=whole.mutual[mine],
            gold=0.25,
        )
        alone = replace(alone, gram=whole.gram[np.ix_(mine, mine)], sketched=whole.sketched[mine])
        assert at_once[part] == pytest.approx(float(SIGNALS[name].of(alone)))


@pytest.mark.parametrize("name", SIGNALS)
def test_each_says_what_it_needs(name):
    """What says that it needs no direction, sketches or rows has the same value without them."""
    signal = SIGNALS[name]
    full = random_evidence(8, along=OF_ROLLOUTS, mutual=np.arange(8.0), gold=0.25)
    expected = float(signal.of(full))
    assert math.isfinite(expected)
    elsewhere = replace(full, along=Along(2.0, 3.0, reliability=0.9), derivatives=full.derivatives[::-1] + 1)
    unsketched = replace(full, gram=None, sketched=None, mutual=None)
    summed = replace(
        full,
        gram=np.array([[full.norm**2]]),
        derivatives=np.array([full.dot]),
        mutual=np.array([full.weights @ full.mutual]),
        sketched=None,
    )
    for needs, without in (
        (signal.of_direction and name != "gold", elsewhere),  # a reference answer's is computed elsewhere
        (signal.of_sketches and name != "gold", unsketched),
        (signal.of_rollouts, summed),
    ):
        found = float(signal.of(without))
        assert (found == pytest.approx(expected)) != needs


def test_t_is_the_derivative_over_its_error_and_the_bound_lies_below_the_cosine():
    mine = random_evidence(12)
    known = uncertainty(mine)
    assert value("t", mine) == pytest.approx(mine.dot / known.standard_error)
    assert value("lcb", mine) == pytest.approx(value("cosine", mine) - known.half_width / mine.norm / 5.5)
    assert value("lcb", mine) < value("cosine", mine)
    against = replace(mine, derivatives=-mine.derivatives)
    assert value("lcb", against) < value("cosine", against) == -value("cosine", mine)


def test_where_the_error_is_unknown_so_are_t_and_the_bound():
    pair = evidence([1, 0], [axis(0), axis(1)])
    assert math.isfinite(value("cosine", pair))
    assert math.isnan(value("t", pair))
    assert math.isnan(value("lcb", pair))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(5))
def test_the_corrected_cosine_is_no_nearer_to_zero(seed, sign):
    mine = random_evidence(8, seed, along=OF_ROLLOUTS)
    mine = replace(mine, derivatives=sign * mine.derivatives)
    corrected, plain = value("cosine_corrected", mine), value("cosine", mine)
    assert corrected * plain > 0
    assert abs(corrected) >= abs(plain) / math.sqrt(0.5)  # of the direction alone


def test_of_gradients_without_noise_the_corrected_cosine_is_the_cosine():
    sure = replace(ALONG, reliability=1.0)
    for rewards in (np.arange(8) % 2.0, np.eye(8)[0], np.random.default_rng(0).random(8)):
        sketches = np.outer(rewards, axis(0, 3)) + axis(4)
        exact = evidence(rewards, sketches, along=sure)
        assert value("cosine_corrected", exact) == pytest.approx(value("cosine", exact))
        noise = math.sqrt(8) * np.random.default_rng(0).normal(size=sketches.shape)
        noisy = evidence(rewards, sketches + noise, along=sure)
        assert abs(value("cosine_corrected", noisy)) > 1.1 * abs(value("cosine", noisy))
        doubtful = replace(exact, along=replace(ALONG, reliability=0.25))
        assert value("cosine_corrected", doubtful) == pytest.approx(2 * value("cosine", exact))
        unknown = replace(exact, along=replace(ALONG, reliability=NAN))
        assert value("cosine_corrected", unknown) == value("cosine_corrected", exact)


def test_corrections_have_a_largest():
    """Where the noise is larger than all that is seen, it would be multiplied."""
    noise = evidence(
        [1, 0, 1, 0, 0, 1],
        [axis(0), axis(1), axis(2), axis(3), axis(4), axis(5)],  # as different as can be
        along=replace(ALONG, reliability=-0.5),
    )
    assert value("cosine_corrected", noise) == pytest.approx(value("cosine", noise) / LEAST_RELIABILITY)


@pytest.mark.parametrize("size", [2, 3])
def test_a_correction_needs_three_rollouts(size):
    mine = random_evidence(rewards=[1, 0, 0.5][:size], along=OF_ROLLOUTS)
    assert math.isnan(cosine_corrected(mine)) == (size < 3)


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo"])
def test_the_correction_is_the_same_whatever_the_advantage_is_multiplied_by(advantage):
    ratios = []
    for name in ("dr_grpo", advantage):
        mine = random_evidence(8, along=OF_ROLLOUTS, advantage=name)
        ratios.append(value("cosine_corrected", mine) / value("cosine", mine))
    assert ratios[0] == pytest.approx(ratios[1])
    other = random_evidence(8, along=OF_ROLLOUTS, token_weight="response-mean")
    assert value("cosine_corrected", other) / value("cosine", other) != pytest.approx(ratios[0], rel=0.01)


def pool_with_mutual(count=6):
    """Problems, their gradients, and each with its derivatives along the pool's own direction."""
    rng = np.random.default_rng(0)
    rewards = [rng.integers(0, 2, 6).astype(float) for _ in range(count)]
    rewards = [np.append(r, [0.0, 1.0]) for r in rewards]
    sketches = [rng.normal(size=(8, DIM)) + DIRECTION_K for _ in range(count)]
    found = [evidence(r, s, advantage="grpo") for r, s in zip(rewards, sketches, strict=True)]
    gradients = [e.weights @ s for e, s in zip(found, sketches, strict=True)]
    rates = [float((r >= PASS_REWARD).mean()) for r in rewards]
    shares = [rate * (1 - rate) / np.linalg.norm(g) for rate, g in zip(rates, gradients, strict=True)]
    direction = sum(share * g for share, g in zip(shares, gradients, strict=True))
    found = [
        replace(e, mutual=s @ (direction - share * g))
        for e, s, share, g in zip(found, sketches, shares, gradients, strict=True)
    ]
    return found, gradients, rates


def test_learnalign_is_a_sum_over_all_other_problems():
    found, gradients, rates = pool_with_mutual()
    for i, mine in enumerate(found):
        total = with_itself = 0.0
        for j in range(len(found)):
            between = (
                gradients[i] @ gradients[j] / np.linalg.norm(gradients[i]) / np.linalg.norm(gradients[j])
            )
            term = rates[i] * (1 - rates[i]) * rates[j] * (1 - rates[j]) * between
            total += term if i != j else 0.0
            with_itself += term
        assert float(learnalign(mine)) == pytest.approx(total)
        assert float(learnalign(mine)) != pytest.approx(with_itself, rel=1e-3)


def test_random_depends_on_the_id_and_the_seed_alone():
    first = value("random", random_evidence(problem_id="a"))
    assert 0 <= first < 1
    others = random_evidence(6, seed=3, problem_id="a", advantage="grpo", along=OF_ROLLOUTS)
    assert value("random", others) == first
    assert value("random", random_evidence(problem_id="b")) != first
    assert value("random", replace(others, seed=1)) != first


def test_random_is_uniform():
    drawn = [value("random", evidence([1, 0], derivatives=[1, 2], problem_id=f"p{n}")) for n in range(2000)]
    counts, _ = np.histogram(drawn, 10, (0, 1))
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi squared of 9 degrees, one in a thousand


def of_passes(passed, size=8):
    return evidence([1.0] * passed + [0.0] * (size - passed), derivatives=np.zeros(size))


@pytest.mark.parametrize("name", ["arcus", "accgreedy", "learnability"])
def test_the_frontier_is_at_one_half(name):
    values = [value(name, of_passes(passed)) for passed in range(1, 8)]
    assert values == pytest.approx(values[::-1])
    assert (np.diff(values[:4]) > 0).all()


def test_arcus_is_the_mean_of_its_bump_over_the_posterior():
    """By a numerical integral, in place of the formula."""
    for passed, size in ((1, 8), (5, 8), (3, 32)):
        middle = math.asin(math.sqrt((passed + 3 / 8) / (size + 3 / 4)))
        angles = np.random.default_rng(0).normal(middle, math.sqrt(1 / (4 * size)), 200_000)
        bumps = np.exp(-((angles - np.pi / 4) ** 2) / (2 * 0.25**2))
        assert value("arcus", of_passes(passed, size)) == pytest.approx(bumps.mean(), abs=4e-3)


def test_arcus_knows_how_sure_a_pass_rate_is():
    few, many = (value("arcus", of_passes(size // 2, size)) for size in (4, 64))
    assert few < many < 1
    assert value("accgreedy", of_passes(2, 4)) == value("accgreedy", of_passes(32, 64))


def test_a_reward_of_at_least_one_half_is_a_pass():
    assert value("pass_rate", evidence([PASS_REWARD, 0.49, 2.0, -1.0], derivatives=np.zeros(4))) == 0.5


def test_the_reference_answer_needs_no_rollouts_that_differ():
    assert value("gold", evidence([0, 0], derivatives=[NAN, NAN], gold=0.25)) == 0.25
    assert math.isnan(value("gold", evidence([1, 0], derivatives=[1, 2])))


def test_what_sketches_are_needed_for_is_unknown_without():
    bare = evidence([1, 0, 0, 1, 0], derivatives=[3, 1, 2, 5, 0])
    unknown = {name for name, signal in SIGNALS.items() if math.isnan(float(signal.of(bare)))}
    assert unknown == {name for name, signal in SIGNALS.items() if signal.of_sketches} | {"gold"}
