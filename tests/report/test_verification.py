import math

import numpy as np
import pytest

from gradcurate.report.verification import compare, evenly_spaced
from gradcurate.scores.ranks import spearman


def rank_correlation(left, right):
    return spearman(np.array(left, float), np.array(right, float))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1, 2, 3], [10, 20, 1000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),  # ranks 1, 2.5, 2.5, 4
        ([1, 1, 2, 2], [1, 2, 1, 2], 0.0),
    ],
)
def test_spearman_of_known_values(left, right, expected):
    assert rank_correlation(left, right) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(right, left) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("left", "right"), [([1, 1], [1, 2]), ([1, 2], [3, 3]), ([1], [1])])
def test_spearman_of_a_constant_is_undefined(left, right):
    assert rank_correlation(left, right) is None


def test_compare_measures_the_distance_of_the_same_problems():
    exact = {"a": 0.0, "b": 1.0, "c": 2.0}
    stored = {"c": 2.0, "b": 0.0, "a": 0.5, "other": 9.0}
    found = compare(exact, stored)
    assert found.spearman == pytest.approx(0.5)
    assert found.rmse == pytest.approx(math.sqrt((0.5**2 + 1.0**2) / 3))
    assert (found.worst, found.worst_problem) == (1.0, "b")
    same = compare(exact, exact)
    assert (same.spearman, same.rmse, same.worst) == (pytest.approx(1.0), 0.0, 0.0)


@pytest.mark.parametrize(
    ("length", "count", "places"),
    [(5, 2, [0, 4]), (5, 3, [0, 2, 4]), (10, 4, [0, 3, 6, 9]), (3, 3, [0, 1, 2]), (3, 9, [0, 1, 2])],
)
def test_chosen_problems_are_spread_over_the_ranking_with_both_ends(length, count, places):
    assert evenly_spaced([str(n) for n in range(length)], count) == [str(place) for place in places]


@pytest.mark.parametrize("count", range(2, 12))
def test_chosen_problems_are_never_chosen_twice(count):
    chosen = evenly_spaced([str(n) for n in range(11)], count)
    assert len(set(chosen)) == count
    assert (chosen[0], chosen[-1]) == ("0", "10")
