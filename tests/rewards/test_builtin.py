"""The rewards that compare text and numbers: tables of completions, and laws of formatting."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcurate.rewards.builtin import exact, last_number, numeric


def test_exact_ignores_only_outer_white_space():
    assert exact("s", " Paris\n", "Paris", {}) == 1.0
    assert exact("s", "paris", "Paris", {}) == 0.0
    assert exact("s", "P aris", "Paris", {}) == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 12.", "12"),
        ("5 - 9 = -4", "-4"),
        ("5-9", "9"),
        ("5 - 9", "9"),
        ("(5)-9", "9"),
        ("x=-3", "-3"),
        ("\N{MINUS SIGN}5", "-5"),
        ("it is (-4)", "-4"),
        ("1,234", "1234"),
        ("12,345,678.5 apples", "12345678.5"),
        ("1,2,3", "3"),
        ("3/4", "0.75"),
        ("-3/4.", "-0.75"),
        (".5", "0.5"),
        ("1.5e-3.", "0.0015"),
        ("-$1,200", "-1200"),
        ("\\boxed{-7}", "-7"),
        ("50%", "50"),
        ("first 7, then 8", "8"),
    ],
)
def test_last_number_reads_what_people_write(text, number):
    assert last_number(text) == Fraction(number)


@pytest.mark.parametrize(
    "text", ["", "no number here", "1/0", "9" * 5000], ids=["empty", "prose", "1/0", "endless"]
)
def test_text_without_a_value_has_no_number_and_is_wrong(text):
    assert last_number(text) is None
    assert numeric("s", text, "1", {}) == 0.0


def test_numeric_compares_exactly():
    assert numeric("s", "so 0.25", "1/4", {}) == 1.0
    assert numeric("s", "so 12.0", "Step 3.\n#### 12", {}) == 1.0
    assert numeric("s", "so 0.333", "1/3", {}) == 0.0
    assert numeric("s", "so 12, not 13", "12", {}) == 0.0


def test_an_answer_without_a_number_is_an_error_and_not_a_zero():
    with pytest.raises(ValueError, match=r"^the answer 'Paris' holds no number$"):
        numeric("s", "12", "Paris", {})


@given(
    st.integers(-(10**15), 10**15),
    st.sampled_from(["{:d}", "{:,d}", "{:d}.0", "**{:d}**", "{:d}.", "it is {:,d} apples"]),
)
def test_however_an_integer_is_formatted_it_is_read_back(value, form):
    text = form.format(value)
    assert last_number(text) == value
    assert numeric("s", text, str(value), {}) == 1.0
    assert numeric("s", text, str(value + 1), {}) == 0.0


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e90, max_value=1e90))
def test_however_a_float_is_formatted_it_is_read_back(value):
    assert last_number(f"x = {value!r}") == Fraction(repr(value))
    assert last_number(f"x = {value:,.3f}.") == Fraction(f"{value:.3f}")


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_read_back(numerator, divisor):
    assert last_number(f"{numerator}/{divisor}") == Fraction(numerator, divisor)
