"""What a reward may return, and the words for what it may not."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcurate.rewards.verdict import json_safe, outcome_of

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # surrogates too


@pytest.mark.parametrize("value", [1, True, 1.0, np.float32(1), np.int64(1), np.bool_(True), Fraction(1)])
def test_numbers_of_every_kind_are_rewards(value):
    outcome = outcome_of(value)
    assert (type(outcome.reward), outcome.reward, outcome.detail) == (float, 1.0, {})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "returned None, not a number"),
        ("abc", "returned 'abc', not a number"),
        ("1.0", "returned '1.0', not a number"),
        ([1.0], "returned [1.0], not a number"),
        (math.nan, "returned nan"),
        (-math.inf, "returned -inf"),
        ({"acc": 1}, "returned a dict without 'score' (its keys: 'acc')"),
        ({}, "returned a dict without 'score' (its keys: none)"),
        ({"score": math.nan}, "returned nan"),
    ],
)
def test_anything_else_fails_and_is_no_zero(value, error):
    outcome = outcome_of(value)
    assert outcome.reward is None
    assert outcome.detail["error"] == error


def test_other_keys_of_a_dict_are_kept_as_json():
    outcome = outcome_of(
        {"score": 0.5, "acc": np.float32(1), "steps": np.arange(2), 3: {"b", "a"}, "nan": math.nan}
    )
    assert outcome.reward == 0.5
    assert outcome.detail == {"acc": 1.0, "steps": [0, 1], "3": ["a", "b"], "nan": "nan"}
    assert outcome_of({"score": None, "acc": 1}).detail == {"acc": 1, "error": "returned None, not a number"}


@given(
    st.recursive(
        st.none() | st.floats() | st.binary() | ANY_TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(st.integers() | ANY_TEXT, inner),
    )
)
def test_whatever_goes_in_is_strict_json_in_utf_8(value):
    json.dumps(json_safe(value), allow_nan=False, ensure_ascii=False).encode()


def test_half_a_surrogate_pair_becomes_a_question_mark():
    outcome = outcome_of({"score": 1.0, "cut\ud83d": ["a\udcff", "é😀"]})
    assert outcome.reward == 1.0
    assert outcome.detail == {"cut?": ["a?", "é😀"]}
