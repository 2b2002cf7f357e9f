"""Scores along several directions become one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.scores.merging import MERGES, merge

NAN = math.nan
SCORES = np.array([[3.0, 1.0, 2.0, 0.0], [-1.0, 5.0, 0.0, 1.0]])

tables = st.integers(1, 4).flatmap(
    lambda sets: st.integers(1, 8).flatmap(
        lambda count: st.tuples(
            st.lists(st.permutations(range(count)), min_size=sets, max_size=sets).map(
                lambda orders: np.array(orders, dtype=float)
            ),
            st.lists(st.integers(1, 3), min_size=sets, max_size=sets).map(
                lambda weights: np.array(weights, dtype=float)
            ),
        )
    )
)


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("mean", [1, 1], [1, 3, 1, 0.5]),
        ("mean", [3, 1], [2, 2, 1.5, 0.25]),
        ("max", [1, 1], [3, 5, 2, 1]),
        ("max", [3, 1], [9, 5, 6, 1]),
        ("rank-sum", [1, 1], [1 + 1 / 4, 1 / 3 + 1, 1 / 2 + 1 / 3, 1 / 4 + 1 / 2]),
        ("rank-sum", [2, 1], [2 + 1 / 4, 2 / 3 + 1, 2 / 2 + 1 / 3, 2 / 4 + 1 / 2]),
        ("round-robin", [1, 1], [4 / 4, 3 / 4, 2 / 4, 1 / 4]),
        ("round-robin", [1, 2], [3 / 4, 4 / 4, 1 / 4, 2 / 4]),
    ],
)
def test_small_cases(name, weights, expected):
    assert merge(SCORES, np.array(weights, dtype=float), name) == pytest.approx(expected)


def test_ties_share_their_mean_rank():
    tied = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    merged = merge(tied, np.ones(2), "rank-sum")
    assert merged == pytest.approx([1 / 1.5 + 1 / 3, 1 / 1.5 + 1 / 2, 1 / 3 + 1])


@settings(deadline=None)
@pytest.mark.parametrize("name", MERGES)
@given(tables, st.randoms())
def test_the_order_of_problems_plays_no_part(name, table, random):
    scores, weights = table
    order = random.sample(range(scores.shape[1]), scores.shape[1])
    merged = merge(scores, weights, name)
    assert merge(scores[:, order], weights, name) == pytest.approx(merged[order])


@settings(deadline=None)
@pytest.mark.parametrize("name", MERGES)
@given(tables)
def test_a_problem_that_every_set_prefers_comes_first(name, table):
    scores, weights = table
    merged = merge(np.column_stack([scores, scores.max(1) + 1]), weights, name)
    assert (merged[:-1] < merged[-1]).all()


@settings(deadline=None)
@pytest.mark.parametrize("name", MERGES)
@given(tables)
def test_of_one_set_the_order_is_its_own(name, table):
    scores, weights = table
    merged = merge(scores[:1], weights[:1], name)
    assert np.argsort(merged).tolist() == np.argsort(scores[0]).tolist()


@settings(deadline=None)
@given(tables)
def test_a_round_robin_gives_every_set_its_turns(table):
    """Among the first problems, those that a set takes are its best of what is left for it."""
    scores, weights = table
    order = np.argsort(-merge(scores, weights, "round-robin"))
    left, turns = list(range(scores.shape[1])), np.zeros(len(scores))
    for problem in order:
        whose = int(np.argmin((turns + 1) / weights))
        assert problem == max(left, key=lambda p: scores[whose][p])
        turns[whose] += 1
        left.remove(problem)
    assert left == []


@pytest.mark.parametrize("name", ["rank-sum", "round-robin"])
def test_only_places_count_where_scores_have_no_common_unit(name):
    stretched = SCORES * np.array([[1.0], [1000.0]])
    assert merge(stretched, np.ones(2), name) == pytest.approx(merge(SCORES, np.ones(2), name))
    assert merge(stretched, np.ones(2), "mean") != pytest.approx(merge(SCORES, np.ones(2), "mean"))


@pytest.mark.parametrize("name", MERGES)
def test_what_one_set_cannot_score_has_no_score_and_takes_no_place(name):
    with_gap = np.insert(SCORES, 2, [NAN, 100.0], axis=1)
    merged = merge(with_gap, np.ones(2), name)
    assert np.isnan(merged).tolist() == [False, False, True, False, False]
    assert np.delete(merged, 2) == pytest.approx(merge(SCORES, np.ones(2), name))
    assert not np.isnan(merge(np.nan_to_num(with_gap), np.ones(2), name)).any()


@pytest.mark.parametrize("name", MERGES)
def test_where_nothing_can_be_scored_nothing_is(name):
    assert np.isnan(merge(np.full((2, 3), NAN), np.ones(2), name)).all()
