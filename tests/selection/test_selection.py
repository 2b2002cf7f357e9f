"""Which of the scored problems are taken, and why."""

import math
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.errors import NoSignalError, SettingsError
from gradcurate.scores.ranking import SCORES_SCHEMA
from gradcurate.selection.selection import INSEPARABLE, SELECTION_SCHEMA, TopFraction, TopK, select_problems


def scores_of(scored, unscored=0):
    """A score table as the score stage leaves it: best first, those without a score last."""
    rows = [
        {"problem_id": f"s{rank}", "rank": rank, "score": -rank / 100, "status": "scored"}
        for rank in range(1, scored + 1)
    ]
    rows += [{"problem_id": f"u{number}", "status": "all_wrong"} for number in range(unscored)]
    shared = {"source": "s", "rollouts": 4, "failed_rollouts": 0}
    return pa.Table.from_pylist([{**shared, **row} for row in rows], schema=SCORES_SCHEMA)


def taken(selection):
    return [row["problem_id"] for row in selection.to_pylist() if row["weight"] == 1]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.data())
def test_top_k_takes_the_k_of_highest_score(scored, unscored, data):
    k = data.draw(st.integers(1, scored))
    scores = scores_of(scored, unscored)
    selection = select_problems(scores, TopK(k))
    assert taken(selection) == [f"s{rank}" for rank in range(1, k + 1)]
    assert_one_row_per_problem(selection, scores, f"top-k {k}")


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.integers(1, 100))
def test_top_fraction_takes_that_share_of_the_scored_and_at_least_one(scored, unscored, percent):
    scores = scores_of(scored, unscored)
    selection = select_problems(scores, TopFraction(percent / 100))
    exact = Fraction(percent, 100) * scored
    assert len(taken(selection)) == 1 or abs(len(taken(selection)) - exact) <= Fraction(1, 2)
    assert taken(selection) == [f"s{rank}" for rank in range(1, len(taken(selection)) + 1)]
    assert_one_row_per_problem(selection, scores, f"top-fraction {percent / 100}")


def assert_one_row_per_problem(selection, scores, strategy):
    assert selection.schema == SELECTION_SCHEMA
    rows, scored = selection.to_pylist(), len(scores) - scores["rank"].null_count
    assert [row["problem_id"] for row in rows] == scores["problem_id"].to_pylist()
    for row, score in zip(rows, scores.to_pylist(), strict=True):
        place = f"rank {score['rank']} of {scored}" if score["rank"] else "no score: all_wrong"
        verdict = "selected" if row["weight"] else "left"
        assert (row["rank"], row["reason"]) == (score["rank"], f"{verdict}, {place}")
        assert row["strategy"] == strategy
        assert row["weight"] in (0.0, 1.0)


@pytest.mark.parametrize(
    ("scored", "fraction", "count"),
    [(4, 0.25, 1), (4, 1, 4), (4, 1.0, 4), (100, 0.29, 29), (10, 0.07, 1), (3, 0.01, 1), (10, 0.35, 4)],
)
def test_the_count_of_a_fraction(scored, fraction, count):
    assert TopFraction(fraction).count(scored) == count


def test_problems_without_a_score_are_never_taken():
    assert taken(select_problems(scores_of(2, unscored=3), TopFraction(1.0))) == ["s1", "s2"]


@pytest.mark.parametrize("k", [0, -1, 4])
def test_more_than_the_scored_are_refused(k):
    with pytest.raises(SettingsError) as raised:
        select_problems(scores_of(3, unscored=5), TopK(k))
    assert str(raised.value) == (
        f"--top-k must be between 1 and the 3 problems that have a score; {k} was given. "
        "Ask for fewer, or give the others a signal: more rollouts or a higher temperature."
    )


@pytest.mark.parametrize("strategy", [TopK(1), TopFraction(0.5)], ids=str)
def test_a_pool_without_any_score_has_no_signal(strategy):
    with pytest.raises(NoSignalError) as raised:
        select_problems(scores_of(0, unscored=5), strategy)
    assert str(raised.value) == (
        "At least one problem of the pool must have a score; none of 5 has. "
        "Use more --rollouts, a higher --temperature, or a pool that the policy solves sometimes."
    )


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 25, math.nan, math.inf])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(SettingsError) as raised:
        select_problems(scores_of(3), TopFraction(fraction))
    assert str(raised.value) == (
        f"--top-fraction must be above 0 and at most 1; {fraction} was given. "
        "Use 0.25 for the best quarter of the problems that have a score."
    )


def with_intervals(half_widths):
    """Scores 0.9, 0.8, ... with intervals; None is a score without one."""
    scores = [0.9 - 0.1 * place for place in range(len(half_widths))]
    rows = [
        {
            "problem_id": f"s{rank}",
            "rank": rank,
            "score": score,
            "status": "scored",
            "source": "s",
            "rollouts": 4,
            "failed_rollouts": 0,
            **({} if half is None else {"score_low": score - half, "score_high": score + half}),
        }
        for rank, (score, half) in enumerate(zip(scores, half_widths, strict=True), start=1)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def inseparable(selection):
    return [row["problem_id"] for row in selection.to_pylist() if row["reason"].endswith(INSEPARABLE)]


@pytest.mark.parametrize(
    ("half_widths", "expected"),
    [
        ([0.01] * 4, []),
        ([0.01, 0.06, 0.01, 0.01], ["s2"]),
        ([0.01, 0.04, 0.04, 0.01], []),
        ([0.2, 0.06, 0.06, 0.2], ["s1", "s2", "s3", "s4"]),
        ([0.2, None, 0.06, None], ["s1", "s3"]),
        ([None] * 4, []),
    ],
)
def test_a_problem_whose_interval_holds_the_cut_is_said_to_be_inseparable(half_widths, expected):
    """The cut lies half way between the last score that is taken and the first that is left: at 0.75."""
    selection = select_problems(with_intervals(half_widths), TopK(2))
    assert inseparable(selection) == expected
    assert taken(selection) == ["s1", "s2"]


def test_where_all_are_taken_there_is_no_cut():
    wide = with_intervals([1.0] * 3)
    assert inseparable(select_problems(wide, TopK(3))) == []
    assert inseparable(select_problems(wide, TopK(2))) == ["s1", "s2", "s3"]


def test_the_reason_says_the_place_first():
    reasons = select_problems(with_intervals([0.1, 0.01, 0.01]), TopK(1))["reason"].to_pylist()
    assert INSEPARABLE == "not separable from the cut"
    assert reasons == [
        "selected, rank 1 of 3, not separable from the cut",
        "left, rank 2 of 3",
        "left, rank 3 of 3",
    ]
