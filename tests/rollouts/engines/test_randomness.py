"""A rollout's random numbers are fixed by (seed, problem, rollout) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.rollouts.engines.randomness import rollout_uniforms, seed_of_all

STREAM = [0.7158221006393433, 0.8504186272621155, 0.9322851300239563, 0.812292754650116]


def test_they_are_the_same_in_every_process_and_version():
    """Written down: a resumed run must go on with the very same stream."""
    assert rollout_uniforms(0, "problem", 0, 4).tolist() == STREAM


@settings(deadline=None)
@given(st.integers(0, 2**63), st.text(), st.integers(0, 1000), st.integers(0, 50), st.integers(0, 50))
def test_a_shorter_limit_is_a_prefix_of_a_longer_one(seed, problem_id, rollout, short, more):
    longer = rollout_uniforms(seed, problem_id, rollout, short + more)
    assert np.array_equal(rollout_uniforms(seed, problem_id, rollout, short), longer[:short])
    assert longer.dtype == np.float32
    assert ((longer >= 0) & (longer < 1)).all()


@pytest.mark.parametrize("other", [(1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a/0", 0), (0, "0/a", 0)])
def test_each_part_of_the_key_gives_another_stream(other):
    one, two = rollout_uniforms(0, "a", 0, 2000), rollout_uniforms(*other, 2000)
    assert not np.array_equal(one, two)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1  # standard error 0.022


def test_global_random_state_plays_no_part():
    np.random.seed(1)
    one = rollout_uniforms(0, "a", 0, 5)
    np.random.seed(2)
    assert np.array_equal(rollout_uniforms(0, "a", 0, 5), one)


def test_they_are_uniform():
    counts, _ = np.histogram(rollout_uniforms(0, "a", 0, 100_000), bins=10, range=(0, 1))
    assert abs(counts - 10_000).max() < 400  # standard deviation 95


def test_an_engine_s_seed_is_of_all_that_it_is_asked_for():
    asked = [("a", 0), ("a", 1), ("b", 0)]
    assert seed_of_all(0, asked) == seed_of_all(0, asked)
    others = [seed_of_all(1, asked), seed_of_all(0, asked[1:]), seed_of_all(0, asked[:2]), seed_of_all(0, [])]
    assert len({seed_of_all(0, asked), *others}) == 5
    assert all(0 <= seed < 2**31 for seed in others)
