"""Advantages against the trainers' own numbers, and what must hold of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.scores.advantages import ADVANTAGES, EQUAL_REWARDS_TOLERANCE, has_signal

CENTRED = ["grpo", "dr_grpo", "rloo", "maxrl"]
WITHOUT_UNITS = ["grpo", "grpo_passk", "maxrl"]
WITHOUT_SHIFT = sorted(ADVANTAGES.keys() - {"maxrl"})
LENGTHS = np.array([2, 3, 3, 3])

# Differences are those of rewards, and not of rounding.
reward_groups = (
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=12)
    .map(lambda hundredths: np.array(hundredths) / 100)
    .filter(has_signal)
)
lengths_and_rewards = reward_groups.flatmap(
    lambda rewards: st.tuples(
        st.lists(st.integers(1, 500), min_size=len(rewards), max_size=len(rewards)).map(np.array),
        st.just(rewards),
    )
)

PUBLISHED = [  # grpo, rloo and opo: computed with verl 0.9.1's own code; the others by their formulas
    ("grpo", [1, 0, 0, 0], [1.5, -0.5, -0.5, -0.5]),
    ("grpo", [0.5, 0.25, 0, 1], [0.1464, -0.4392, -1.0247, 1.3175]),
    ("rloo", [1, 0, 0, 0], [1, -0.3333, -0.3333, -0.3333]),
    ("rloo", [0.5, 0.25, 0, 1], [0.0833, -0.25, -0.5833, 0.75]),
    ("dr_grpo", [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
    ("dr_grpo", [0.5, 0.25, 0, 1], [0.0625, -0.1875, -0.4375, 0.5625]),
    ("opo", [1, 0, 0, 0], [0.8182, -0.1818, -0.1818, -0.1818]),
    ("grpo_passk", [1, 0, 0, 0], [2, 0, 0, 0]),
    ("grpo_passk", [0.5, 0.25, 0, 1], [0, 0, 0, 1.1711]),
    ("maxrl", [1, 0, 0, 0], [3, -1, -1, -1]),
    ("maxrl", [0.5, 0.25, 0, 1], [0.1429, -0.4286, -1, 1.2857]),
    ("nemo_rl", [1, 0, 0, 0], [1, -0.5774, -0.5774, -0.5774]),
]


@pytest.mark.parametrize(("name", "rewards", "expected"), PUBLISHED)
def test_published_values(name, rewards, expected):
    advantages = ADVANTAGES[name](np.array(rewards, dtype=float), LENGTHS)
    assert advantages == pytest.approx(expected, abs=6e-5)  # given to four places
    for other in ADVANTAGES.keys() - {name}:
        of_other = ADVANTAGES[other](np.array(rewards, dtype=float), LENGTHS)
        assert of_other != pytest.approx(expected, abs=6e-5)


@settings(deadline=None)
@pytest.mark.parametrize("name", ADVANTAGES)
@given(lengths_and_rewards)
def test_they_keep_the_order_of_the_rewards(name, of_group):
    lengths, rewards = of_group
    advantages = ADVANTAGES[name](rewards, lengths)
    order = np.argsort(rewards, kind="stable")
    assert (np.diff(advantages[order]) >= -1e-12 * np.abs(advantages).max()).all()
    if name != "grpo_passk":
        assert advantages[order[0]] < 0 < advantages[order[-1]]


@settings(deadline=None)
@pytest.mark.parametrize("name", CENTRED)
@given(lengths_and_rewards)
def test_they_sum_to_zero(name, of_group):
    lengths, rewards = of_group
    advantages = ADVANTAGES[name](rewards, lengths)
    assert abs(advantages.sum()) <= 1e-9 * np.abs(advantages).max()


@settings(deadline=None)
@given(lengths_and_rewards)
def test_opo_sums_to_zero_over_tokens(of_group):
    lengths, rewards = of_group
    advantages = ADVANTAGES["opo"](rewards, lengths)
    assert abs((advantages * lengths).sum()) <= 1e-9 * (np.abs(advantages) * lengths).sum()


@pytest.mark.parametrize("name", sorted(ADVANTAGES.keys() - set(CENTRED)))
def test_the_others_do_not_sum_to_zero(name):
    assert abs(ADVANTAGES[name](np.array([0.5, 0.25, 0, 1]), LENGTHS).sum()) > 0.01


def test_only_opo_asks_for_lengths():
    rewards = np.array([1.0, 0.0, 0.25, 0.0])
    for name, advantage in ADVANTAGES.items():
        same = np.array_equal(advantage(rewards, LENGTHS), advantage(rewards, LENGTHS[::-1].copy()))
        assert same == (name != "opo")


def test_opo_of_equal_lengths_is_dr_grpo():
    rewards, lengths = np.array([1.0, 0.0, 0.25]), np.array([7, 7, 7])
    assert ADVANTAGES["opo"](rewards, lengths) == pytest.approx(ADVANTAGES["dr_grpo"](rewards, lengths))


@settings(deadline=None)
@given(reward_groups)
def test_rloo_is_the_reward_less_the_mean_of_the_others(rewards):
    expected = [reward - np.delete(rewards, i).mean() for i, reward in enumerate(rewards)]
    assert ADVANTAGES["rloo"](rewards, np.ones(len(rewards), int)) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(reward_groups)
def test_nemo_rl_standardises_by_the_others(rewards):
    expected = []
    for i, reward in enumerate(rewards):
        others = np.delete(rewards, i)
        spread = others.std(ddof=1) if len(others) > 1 else 0.0
        lead = reward - others.mean()
        expected.append(lead / (spread + 1e-6) if spread > EQUAL_REWARDS_TOLERANCE else lead)
    found = ADVANTAGES["nemo_rl"](rewards, np.ones(len(rewards), int))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_passk_gives_the_lead_to_the_first_of_the_best_and_a_tie_has_none():
    lengths = np.ones(3, int)
    assert ADVANTAGES["grpo_passk"](np.array([1.0, 0.0, 1.0]), lengths).tolist() == [0, 0, 0]
    lead, *others = ADVANTAGES["grpo_passk"](np.array([1.0, 0.5, 0.0]), lengths)
    assert lead == pytest.approx(0.5 / 0.5, rel=1e-5)
    assert others == [0, 0]


def test_maxrl_keeps_its_sign_where_the_mean_reward_is_negative():
    rewards, lengths = np.array([-1.0, 0.0, 0.0, -1.0]), np.ones(4, int)
    assert ADVANTAGES["maxrl"](rewards, lengths) == pytest.approx([-1, 1, 1, -1], rel=1e-5)


@settings(deadline=None)
@pytest.mark.parametrize("name", ADVANTAGES)
@given(seed=st.integers(0, 1000), size=st.integers(2, 9))
def test_many_groups_at_once_are_as_one_after_another(name, seed, size):
    rng = np.random.default_rng(seed)
    rewards, lengths = rng.integers(0, 3, (2, 3, size)) / 2, rng.integers(1, 50, (2, 3, size))
    at_once = ADVANTAGES[name](rewards, lengths)
    for place in np.ndindex(2, 3):
        alone = ADVANTAGES[name](rewards[place], lengths[place])
        assert at_once[place] == pytest.approx(alone, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_axis_of_the_group_is_the_last(name):
    rewards, lengths = np.array([[1.0, 0.0, 0.25], [0.0, 1.0, 0.5], [0.5, 0.25, 0.0]]), np.ones((3, 3), int)
    turned = ADVANTAGES[name](np.ascontiguousarray(rewards.T), lengths).T
    assert turned != pytest.approx(ADVANTAGES[name](rewards, lengths))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_group_of_equal_rewards_has_none(name):
    assert ADVANTAGES[name](np.full(4, 0.5), LENGTHS) == pytest.approx([0, 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_another_rollout_changes_the_baseline_of_all(name):
    rewards, lengths = np.array([1.0, 0.0, 0.25]), np.array([2, 3, 3])
    more = ADVANTAGES[name](np.append(rewards, 0.75), np.append(lengths, 2))
    assert more[:3] != pytest.approx(ADVANTAGES[name](rewards, lengths))


@pytest.mark.parametrize("name", WITHOUT_SHIFT)
def test_a_shift_of_all_rewards_plays_no_part_but_in_maxrl(name):
    rewards = np.array([1.0, 0.0, 0.25, 0.5])
    expected = ADVANTAGES[name](rewards, LENGTHS)
    assert ADVANTAGES[name](rewards + 5, LENGTHS) == pytest.approx(expected, abs=1e-9)
    of_maxrl = ADVANTAGES["maxrl"](rewards, LENGTHS)
    assert ADVANTAGES["maxrl"](rewards + 5, LENGTHS) != pytest.approx(of_maxrl, rel=0.5)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_those_that_divide_by_rewards_forget_their_unit(name):
    rewards = np.array([1.0, 0.0, 0.25, 0.5])
    once, tenfold = (ADVANTAGES[name](rewards * unit, LENGTHS) for unit in (1, 10))
    kept = name not in (*WITHOUT_UNITS, "nemo_rl")
    assert tenfold == pytest.approx((10 if kept else 1) * once, rel=1e-4)


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
