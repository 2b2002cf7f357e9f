"""The reliability of a ranking, by halves of the rollouts (tests/laws/test_split_halves.py has its laws)."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.scores import reliability as module
from gradcurate.scores.expression import parse_expression
from gradcurate.scores.reliability import FEWEST_PROBLEMS, gain_over_half, measure_reliability, spearman_brown
from gradcurate.scores.scorer import Scorer
from scores.samples import evidence, random_evidence


def score(text="dot", **fields):
    return Scorer(parse_expression(text), **fields)


def sure_pool(count, size=8, noise=0.0):
    """Problems whose derivatives are their slope times the reward, and so without any noise, or with some."""
    rng = np.random.default_rng(0)
    rewards = [np.arange(size) % 2.0 for _ in range(count)]
    return [
        evidence(r, derivatives=(n + 1.0) * r + noise * rng.normal(size=size), problem_id=f"p{n}")
        for n, r in enumerate(rewards)
    ]


def mixed_pool(count=30, size=8):
    return [random_evidence(size, seed, problem_id=f"p{seed}") for seed in range(count)]


@pytest.mark.parametrize(("halves", "whole"), [(0.0, 0.0), (0.5, 2 / 3), (1.0, 1.0), (-0.25, -2 / 3)])
def test_spearman_and_brown_s_formula(halves, whole):
    assert spearman_brown(halves) == pytest.approx(whole)


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(1, 20), st.floats(1, 20))
def test_so_many_times_so_many_is_as_both_at_once(halves, once, again):
    stepwise = spearman_brown(spearman_brown(halves, once), again)
    assert stepwise == pytest.approx(spearman_brown(halves, once * again), rel=1e-6)
    assert halves <= spearman_brown(halves, once) < 1 + 1e-12


@pytest.mark.parametrize("halves", [-1.0, -0.99, -0.5, -1 / 3])
def test_correlations_below_zero_stay_correlations(halves):
    assert -1 <= spearman_brown(halves) < 0
    assert spearman_brown(-1.0, times=10.0) == -1.0


def test_scores_without_noise_repeat():
    """Over p(1 - p) a derivative without noise is the slope, whatever successes a half happens to have."""
    sure, noisy, unscaled = (
        measure_reliability([sure_pool(20, 9, noise)], score(text))
        for noise, text in ((0.0, "dot / learnability"), (8.0, "dot / learnability"), (0.0, "dot"))
    )
    assert sure.halves > 1 - 1e-9
    assert noisy.halves < 0.9
    assert unscaled.halves < 1 - 1e-4
    assert noisy.reliability == pytest.approx(spearman_brown(noisy.halves, (9 - 1) / (4 - 1)))
    assert noisy.low < noisy.reliability < noisy.high <= 1
    assert noisy.share_of_best_gain == pytest.approx(math.sqrt(noisy.reliability))


def test_it_counts_problems_and_rollouts():
    found = measure_reliability([sure_pool(10, 8) + sure_pool(10, 4)], score())
    assert found.rollouts == 6.0
    assert 10 <= found.problems < 20  # of four rollouts, half of the halves have two of one kind


@pytest.mark.parametrize("lacking", ["too few rollouts", "a sum", "no signal"])
def test_what_cannot_be_halved_is_left_out(lacking):
    other = {
        "too few rollouts": evidence([1, 0, 1], derivatives=[100.0, -100.0, 0.0]),
        "a sum": evidence([1, 0, 0, 1], derivatives=[1000.0]),
        "no signal": evidence([1, 1, 1, 1], derivatives=[1.0, 2.0, 3.0, 1000.0]),
    }[lacking]
    pool = mixed_pool()
    assert measure_reliability([[*pool, other]], score()) == measure_reliability([pool], score())
    one_more = random_evidence(8, 99, problem_id="p99")
    assert measure_reliability([[*pool, one_more]], score()) != measure_reliability([pool], score())


@pytest.mark.parametrize("count", [FEWEST_PROBLEMS - 1, FEWEST_PROBLEMS])
def test_too_few_problems_cannot_be_correlated(count):
    assert (measure_reliability([mixed_pool(count)], score()) is None) == (count < FEWEST_PROBLEMS)


def test_a_score_that_halves_do_not_have_is_not_measured():
    assert measure_reliability([mixed_pool()], score("gold")) is None
    assert measure_reliability([mixed_pool()], score("cosine / 0")) is None
    assert measure_reliability([mixed_pool()], score("cosine")) is not None


def test_a_score_that_needs_no_rewards_repeats_entirely():
    found = measure_reliability([mixed_pool()], score("random"))
    assert found.halves == pytest.approx(1)
    assert found.share_of_best_gain == pytest.approx(1)
    assert measure_reliability([mixed_pool()], score("dot")).halves < 0.99


def test_the_interval_is_that_of_a_correlation_of_so_many_problems():
    few, many = (measure_reliability([mixed_pool(count)], score()) for count in (8, 40))
    for found in (few, many):
        middle, spread = math.atanh(found.halves), 1.645 / math.sqrt(found.problems - 3)
        times = gain_over_half(found.rollouts)
        assert found.low == pytest.approx(spearman_brown(math.tanh(middle - spread), times))
        assert found.high == pytest.approx(spearman_brown(math.tanh(middle + spread), times))
    assert many.high - many.low < few.high - few.low


def noise_pool(count, seed=0):
    rng = np.random.default_rng(seed)
    return [evidence(rng.random(8), derivatives=rng.normal(size=8), problem_id=f"p{n}") for n in range(count)]


def test_nothing_is_extrapolated_where_zero_is_in_the_interval():
    of_noise = [measure_reliability([noise_pool(30, seed)], score()) for seed in range(10)]
    for found in of_noise:
        assert (found.rollouts_for_half is None) == (found.low <= 0)
    assert sum(found.low <= 0 for found in of_noise) >= 9
    signal = measure_reliability([mixed_pool()], score())
    assert signal.low > 0
    needed = signal.rollouts_for_half
    spare = signal.rollouts // 2 - 1  # a rollout of each half goes into its baseline
    assert spearman_brown(signal.halves, (needed - 1) / spare) >= 0.5
    assert spearman_brown(signal.halves, (needed - 2) / spare) < 0.5


def test_halves_that_contradict_each_other_have_no_share_of_the_gain():
    found = next(
        f
        for f in (measure_reliability([noise_pool(12, seed)], score()) for seed in range(20))
        if f.halves < -0.05
    )
    assert found.share_of_best_gain == 0
    assert -1 <= found.low < found.reliability < 0


def test_the_order_of_directions_and_their_merging_are_part_of_the_score():
    pool = mixed_pool()
    other = [replace(e, derivatives=np.random.default_rng(1).normal(size=8)) for e in pool]
    merged = measure_reliability([pool, other], score(merging="mean", weights=(1.0, 0.0)))
    alone = measure_reliability([pool], score())
    assert merged.halves == pytest.approx(alone.halves)
    both = measure_reliability([pool, other], score(merging="mean", weights=(1.0, 5.0)))
    assert both.halves != pytest.approx(alone.halves, abs=0.02)
    ranked = measure_reliability([pool, other], score(merging="rank-sum", weights=(1.0, 1.0)))
    assert ranked.halves < 1


def test_it_is_the_same_every_time():
    assert measure_reliability([mixed_pool()], score("t")) == measure_reliability([mixed_pool()], score("t"))


def test_large_pools_are_cut_fewer_times(monkeypatch):
    seen = []
    original = module.random_halves
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 300 * 8**2)
    monkeypatch.setattr(module, "MOST_PROBLEMS", 50)
    monkeypatch.setattr(module, "random_halves", lambda *of: seen.append(of[1]) or original(*of))
    for count in (4, 30, 100):
        measure_reliability([mixed_pool(count)], score())
    assert sorted(set(seen)) == [6, 10, 75]
    assert (seen.count(6), seen.count(10), seen.count(75)) == (50, 30, 4)
