"""Advantages against the trainers' own numbers, and what must hold of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.scores.advantages import ADVANTAGES, EQUAL_REWARDS_TOLERANCE, has_signal

reward_groups = st.lists(st.floats(-10, 10), min_size=2, max_size=12).map(np.array).filter(has_signal)

PUBLISHED = [  # grpo and rloo: computed with verl 0.9.1's own code; dr_grpo: r - mean
    ("grpo", [1, 0, 0, 0], [1.5, -0.5, -0.5, -0.5]),
    ("grpo", [0.5, 0.25, 0, 1], [0.1464, -0.4392, -1.0247, 1.3175]),
    ("rloo", [1, 0, 0, 0], [1, -0.3333, -0.3333, -0.3333]),
    ("rloo", [0.5, 0.25, 0, 1], [0.0833, -0.25, -0.5833, 0.75]),
    ("dr_grpo", [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
    ("dr_grpo", [0.5, 0.25, 0, 1], [0.0625, -0.1875, -0.4375, 0.5625]),
]


@pytest.mark.parametrize(("name", "rewards", "expected"), PUBLISHED)
def test_published_values(name, rewards, expected):
    advantages = ADVANTAGES[name](np.array(rewards, dtype=float))
    assert advantages == pytest.approx(expected, abs=6e-5)  # given to four places
    for other in ADVANTAGES.keys() - {name}:
        assert ADVANTAGES[other](np.array(rewards, dtype=float)) != pytest.approx(expected, abs=6e-5)


@settings(deadline=None)
@pytest.mark.parametrize("name", ADVANTAGES)
@given(rewards=reward_groups)
def test_they_sum_to_zero_and_keep_the_order_of_the_rewards(name, rewards):
    advantages = ADVANTAGES[name](rewards)
    assert abs(advantages.sum()) <= 1e-9 * np.abs(advantages).max() + 1e-12
    order = np.argsort(rewards, kind="stable")
    assert (np.diff(advantages[order]) >= 0).all()
    assert advantages[order[0]] < 0 < advantages[order[-1]]


@settings(deadline=None)
@given(rewards=reward_groups)
def test_rloo_is_the_reward_less_the_mean_of_the_others(rewards):
    expected = [reward - np.delete(rewards, i).mean() for i, reward in enumerate(rewards)]
    assert ADVANTAGES["rloo"](rewards) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_they_are_taken_within_the_group(name):
    """The other problems' rewards play no part, and neither does a shift of all of one's own."""
    rewards = np.array([1.0, 0.0, 0.25])
    assert ADVANTAGES[name](rewards + 5) == pytest.approx(ADVANTAGES[name](rewards), abs=1e-9)
    assert ADVANTAGES[name](np.append(rewards, 1.0))[:3] != pytest.approx(ADVANTAGES[name](rewards))


def test_only_grpo_forgets_the_scale_of_the_rewards():
    rewards = np.array([1.0, 0.0, 0.25])
    assert ADVANTAGES["grpo"](10 * rewards) == pytest.approx(ADVANTAGES["grpo"](rewards), rel=1e-5)
    for name in ("dr_grpo", "rloo"):
        assert ADVANTAGES[name](10 * rewards) == pytest.approx(10 * ADVANTAGES[name](rewards))


@pytest.mark.parametrize(
    ("rewards", "signal"),
    [
        ([], False),
        ([1.0], False),
        ([1.0, 1.0], False),
        ([0.1 + 0.2, 0.3], False),
        ([0.0, EQUAL_REWARDS_TOLERANCE], False),
        ([0.0, 2 * EQUAL_REWARDS_TOLERANCE], True),
        ([0.0, 1.0], True),
        ([1.0, 1.0, 1.0, 0.5], True),
    ],
)
def test_rewards_that_differ_beyond_rounding_are_a_signal(rewards, signal):
    assert has_signal(np.array(rewards)) is signal
