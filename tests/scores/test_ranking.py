"""From evidence and scores to one row per problem."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradcurate.problems.problem import Problem
from gradcurate.scores.advantages import ADVANTAGES
from gradcurate.scores.evidence import Along
from gradcurate.scores.groups import Group
from gradcurate.scores.ranking import SCORES_SCHEMA, Ranked, rank_problems
from gradcurate.scores.signals import SIGNALS
from gradcurate.scores.uncertainty import uncertainty
from scores.samples import ALONG, DIRECTION_K, axis, evidence, random_evidence

OF_THE_DERIVATIVE = ("cosine", "cosine_corrected", "dot", "t")


def problem(problem_id):
    return Problem(problem_id, "pool", f"source of {problem_id}", (), True, "", {})


def group(problem_id, rewards, failed=0):
    count = len(rewards)
    ones = np.ones(count, dtype=int)
    return Group(problem_id, "pool", np.arange(count), np.array(rewards, dtype=float), ones, failed)


def rank(found, others=(), signal="cosine", scores=None, lacking=()):
    """The table of some evidence, and of groups that have none."""
    groups = [group(e.problem_id, e.rewards.tolist()) for e in found] + list(others)
    scores = [float(SIGNALS[signal].of(e)) for e in found] if scores is None else scores
    return rank_problems(
        Ranked(
            problems=[problem(g.problem_id) for g in groups],
            groups={g.problem_id: g for g in groups},
            evidence=found,
            scores=np.array(scores, dtype=float),
            lacking=frozenset(lacking),
        ),
        signal,
    )


def two(problem_id, dot):
    """A problem of two rollouts whose gradient has length 1 and this derivative."""
    return evidence([1, 0], [axis(0), axis(0, -1)], [dot, -dot], problem_id=problem_id)


def test_the_score_is_the_exact_dot_over_both_norms():
    mine = evidence([1, 0, 0.5], [axis(0, 12), axis(2, -16), axis(5)], [22, 0, 5], problem_id="a")
    [row] = rank([mine]).to_pylist()
    assert (row["dot"], row["norm"]) == (11.0, 10.0)
    assert row["score"] == row["cosine"] == pytest.approx(11 / (10 * 5.5))
    assert row["sketched_cosine"] == pytest.approx(18 / (10 * 5))
    assert row["numerator"] == "exact"
    assert (row["mean_reward"], row["reward_std"]) == (0.5, 0.5)
    assert row["pass_rate"] == pytest.approx(2 / 3)
    assert (row["rollouts"], row["failed_rollouts"], row["source"]) == (3, 0, "source of a")


def test_derivatives_that_hold_sketches_are_told_from_exact_ones():
    exact = random_evidence(problem_id="a")
    sketched = replace(exact, along=replace(ALONG, error=0.5))
    [of_exact], [of_sketched] = (rank([one]).to_pylist() for one in (exact, sketched))
    assert (of_exact["numerator"], of_sketched["numerator"]) == ("exact", "sketched")
    assert of_exact["score"] == of_sketched["score"]
    assert of_sketched["dot_error"] > of_exact["dot_error"]


def test_problems_are_ranked_from_1_ties_by_id_and_those_without_a_score_come_last():
    dots = {"low": -3.0, "tie2": 1.0, "best": 2.0, "tie1": 1.0}
    found = [two(name, dot) for name, dot in dots.items()]
    others = [group("z", [1, 1]), group("dead", [0, 0])]
    table = rank(found, others)
    assert table.schema == SCORES_SCHEMA
    assert [(row["problem_id"], row["rank"]) for row in table.to_pylist()] == [
        ("best", 1),
        ("tie1", 2),
        ("tie2", 3),
        ("low", 4),
        ("dead", None),
        ("z", None),
    ]
    assert rank(found[::-1], others[::-1]) == table


@pytest.mark.parametrize(
    ("rewards", "failed", "status"),
    [
        ([1, 1], 0, "all_correct"),
        ([0, 0], 1, "all_wrong"),
        ([0.5, 0.5], 0, "constant_reward"),
        ([1], 3, "failed"),
        ([], 4, "failed"),
        ([], 0, "no_rollouts"),
    ],
)
def test_without_a_signal_the_score_is_null_and_never_zero(rewards, failed, status):
    """Zero would rank such a problem above every one of negative alignment."""
    against, dead = rank([two("against", -2.0)], [group("dead", rewards, failed)]).to_pylist()
    assert (against["problem_id"], against["rank"], against["status"]) == ("against", 1, "scored")
    assert against["score"] < 0
    assert dead["status"] == status
    for column in ("rank", "score", "score_low", "dot", "dot_error", "norm", "cosine", "sketched_cosine"):
        assert dead[column] is None
    assert (dead["rollouts"], dead["failed_rollouts"]) == (len(rewards), failed)


def test_a_problem_without_a_group_has_no_rollouts():
    table = rank_problems(Ranked([problem("a")], {}, [], np.zeros(0)), "cosine")
    assert [(row["status"], row["rollouts"], row["score"]) for row in table.to_pylist()] == [
        ("no_rollouts", 0, None)
    ]


def test_reward_statistics_that_do_not_exist_are_null():
    none, one = rank([], [group("none", [], 4), group("one", [0.75], 3)]).to_pylist()
    assert (none["mean_reward"], none["reward_std"], none["pass_rate"]) == (None, None, None)
    assert (one["mean_reward"], one["reward_std"], one["pass_rate"]) == (0.75, None, 1.0)


def test_gradients_that_cancel_are_no_score():
    """Equal completions of different rewards: what is left of their gradients is rounding."""
    sketch, other = np.random.default_rng(0).normal(size=(2, 8))
    nudged = sketch * (1 + 1e-4 * np.arange(8))  # the same rollout in another batch, at worst
    found = [
        evidence([1, 0], [sketch, second], [3, 3.1], problem_id=name)
        for name, second in (("same", sketch), ("nudged", nudged), ("other", other))
    ]
    rows = rank(found).to_pylist()
    assert {row["problem_id"]: row["status"] for row in rows} == {
        "same": "no_gradient",
        "nudged": "no_gradient",
        "other": "scored",
    }
    assert [(row["rank"], row["score"] is None) for row in rows] == [(1, False), (None, True), (None, True)]


def test_a_group_of_different_rewards_without_any_row_has_no_gradient():
    """Sums over equal completions are zero, and zero rows are not made."""
    [row] = rank([], [group("a", [1, 0])]).to_pylist()
    assert (row["status"], row["score"]) == ("no_gradient", None)


def test_missing_sketches_are_no_score():
    scored, lacking = rank([two("a", 1.0)], [group("b", [1, 0])], lacking=["b"]).to_pylist()
    assert (scored["status"], scored["rank"]) == ("scored", 1)
    assert (lacking["status"], lacking["score"], lacking["numerator"]) == ("not_sketched", None, None)


def test_a_score_that_is_undefined_is_told_from_a_gradient_that_is():
    undefined, cancelled = two("undefined", 1.0), evidence([1, 0], [axis(0)] * 2, problem_id="cancelled")
    rows = rank([undefined, cancelled], signal="cosine / 0", scores=[math.nan, math.nan]).to_pylist()
    assert {row["problem_id"]: row["status"] for row in rows} == {
        "undefined": "no_score",
        "cancelled": "no_gradient",
    }
    by_id = {row["problem_id"]: row for row in rows}
    assert (by_id["undefined"]["cosine"], by_id["undefined"]["norm"]) == (pytest.approx(1 / 5.5), 1.0)
    assert by_id["undefined"]["rank"] is None


def test_without_sketches_there_is_a_dot_and_no_cosine():
    [row] = rank([evidence([1, 0, 0, 1], derivatives=[2, 0, 1, 3])], signal="dot").to_pylist()
    assert (row["status"], row["score"]) == ("scored", row["dot"])
    assert row["dot_error"] > 0
    for column in ("norm", "cosine", "sketched_cosine"):
        assert row[column] is None


def test_a_group_without_a_signal_may_have_a_score_of_another_kind():
    """The reference answer has a gradient though all rollouts are wrong; statistics of these stay null."""
    wrong = evidence([0, 0, 0, 0], derivatives=[math.nan], gold=0.25)
    [row] = rank([wrong], signal="gold").to_pylist()
    assert (row["status"], row["score"], row["rank"]) == ("scored", 0.25, 1)
    for column in ("dot", "norm", "cosine", "score_low", "score_high"):
        assert row[column] is None
    [null] = rank([wrong], signal="cosine", scores=[math.nan]).to_pylist()
    assert (null["status"], null["score"]) == ("all_wrong", None)


@pytest.mark.parametrize("signal", SIGNALS)
def test_scores_proportional_to_the_derivative_have_its_interval_and_no_others(signal):
    mine = random_evidence(12, mutual=np.arange(12.0), along=replace(ALONG, reliability=0.5), gold=0.1)
    [row] = rank([mine], signal=signal).to_pylist()
    if signal not in OF_THE_DERIVATIVE:
        assert row["score_low"] is row["score_high"] is None
        return
    assert row["score_low"] < row["score"] < row["score_high"]
    assert row["score_low"] + row["score_high"] == pytest.approx(2 * row["score"])
    relative = float(uncertainty(mine).half_width / abs(mine.dot))
    assert row["score_high"] - row["score"] == pytest.approx(relative * abs(row["score"]))


def test_an_expression_over_them_has_no_interval():
    [row] = rank([random_evidence()], signal="2 * cosine", scores=[0.5]).to_pylist()
    assert row["score_low"] is row["score_high"] is None
    assert rank([random_evidence()], signal="cosine", scores=[0.5])["score_low"][0].is_valid


def test_an_unknown_error_is_no_interval_and_none_of_zero():
    pair = evidence([1, 0], [axis(0), axis(1)])
    [row] = rank([pair]).to_pylist()
    assert row["status"] == "scored"
    assert row["score_low"] is row["score_high"] is row["dot_error"] is None
    summed = evidence([1, 0, 0, 1], [axis(0)])
    assert summed.summed
    [row] = rank([summed]).to_pylist()
    assert (row["status"], row["score"]) == ("scored", pytest.approx(3 / 5.5))
    assert row["score_low"] is row["score_high"] is row["dot_error"] is None


@pytest.fixture
def pool():
    """Problems of six rollouts, their derivatives those of the sketches along `DIRECTION_K`."""
    return [
        random_evidence(6, seed, problem_id=f"p{seed}", token_weight="response-mean") for seed in range(4)
    ]


def scores_by_id(pool, advantage, rewards):
    found = [
        replace(e, rewards=rewards(e.rewards), weighting=replace(e.weighting, advantage=advantage))
        for e in pool
    ]
    return {row["problem_id"]: row["score"] for row in rank(found).to_pylist()}


@pytest.mark.parametrize("advantage", sorted(ADVANTAGES.keys() - {"maxrl"}))
def test_scale_and_shift_of_the_rewards_play_no_part(pool, advantage):
    expected = scores_by_id(pool, advantage, lambda r: r)
    scaled = scores_by_id(pool, advantage, lambda r: 7 * r - 2)
    assert scaled == pytest.approx(expected, rel=1e-4)
    others = scores_by_id(pool, advantage, lambda r: r[::-1].copy())
    assert others != pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("advantage", sorted(ADVANTAGES.keys() - {"grpo_passk"}))
def test_reversed_rewards_reverse_the_scores(pool, advantage):
    expected = scores_by_id(pool, advantage, lambda r: r)
    reversed_ = scores_by_id(pool, advantage, lambda r: -r)
    assert reversed_ == pytest.approx({name: -score for name, score in expected.items()}, rel=1e-4)


def test_derivatives_of_the_validation_sketch_give_the_sketched_cosine(pool):
    """Both columns are one cosine, by two ways; here the derivatives are those of the sketches."""
    for row in rank(pool).to_pylist():
        assert row["sketched_cosine"] == pytest.approx(row["score"] * ALONG.norm / 5, rel=1e-9)
        assert -1 <= row["sketched_cosine"] <= 1
    along_another = [replace(e, sketched=e.derivatives[::-1]) for e in pool]
    for row in rank(along_another).to_pylist():
        assert row["sketched_cosine"] != pytest.approx(row["score"] * ALONG.norm / 5, rel=1e-3)


def test_the_length_of_the_direction_divides_cosines_only(pool):
    longer = [replace(e, along=Along(11.0, 5.0)) for e in pool]
    for signal, share in (("cosine", 0.5), ("dot", 1.0), ("t", 1.0)):
        once, twice = (rank(found, signal=signal)["score"].to_pylist() for found in (pool, longer))
        assert twice == pytest.approx([share * score for score in once])
    assert np.linalg.norm(DIRECTION_K) == ALONG.sketched_norm
