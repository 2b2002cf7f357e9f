"""Scores as expressions: what they mean, and what is refused."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.errors import SettingsError
from gradcurate.scores.expression import FUNCTIONS, LONGEST, parse_expression, rank
from gradcurate.scores.signals import SIGNALS

NAN = math.nan
VALUES = {
    "cosine": np.array([0.5, -0.25, 0.125, 2.0]),
    "t": np.array([1.5, -3.0, 0.0, 1.0]),
    "learnability": np.array([0.25, 0.1875, 0.1, 0.2]),
}
WANTS = "--score must be a signal, or an expression of signals, numbers and functions"
FUNCTION_NAMES = "rank, z, abs, sqrt, log, exp, min, max"


def names_in(text):
    """The signals that a text reads; "sqrt" has a t that is none."""
    return {name for name in VALUES if re.search(rf"\b{name}\b", text)}


names = st.sampled_from(sorted(VALUES))
numbers = st.one_of(st.integers(0, 9).map(str), st.floats(0, 9).map(lambda x: f"{x:.3f}"))
texts = st.recursive(
    names | numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "**"]), inner).map(
            lambda of: f"({of[0]} {of[1]} {of[2]})"
        ),
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(" ".join),
        inner.map(lambda of: f"-{of}"),
        st.tuples(st.sampled_from(["abs", "sqrt", "log", "exp"]), inner).map(lambda of: f"{of[0]}({of[1]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda of: f"{of[0]}({of[1]}, {of[2]})"),
    ),
    max_leaves=8,
)
of_signals = texts.filter(lambda text: len(text) <= LONGEST and names_in(text))


def by_numpy(text, values):
    """The same expression, evaluated by Python over arrays and numpy's numbers."""
    functions = {"abs": np.abs, "sqrt": np.sqrt, "log": np.log, "exp": np.exp}
    names = {**functions, "min": np.minimum, "max": np.maximum, "number": np.float64, **values}
    numbers = re.sub(r"\d+(\.\d+)?", r"number(\g<0>)", text)
    with np.errstate(all="ignore"):
        found = eval(numbers, {"__builtins__": {}}, names)
    return np.where(np.isfinite(found), found, NAN)


@settings(deadline=None, max_examples=300)
@given(of_signals)
def test_arithmetic_is_numpy_s(text):
    """But for what is not finite on the way: numpy has min(x, inf) = x, which here is no number."""
    found = parse_expression(text)(VALUES)
    expected = np.broadcast_to(by_numpy(text, VALUES), 4)
    known = ~np.isnan(found)
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-9, atol=1e-300)
    if not re.search(r"/|\*\*|log|exp|sqrt", text):
        np.testing.assert_array_equal(known, ~np.isnan(expected))


def test_a_quotient_by_zero_reaches_no_other_problem():
    values = {"learnability": np.array([0.0, 0.1, 0.2])}
    scores = parse_expression("z(log(learnability))")(values)
    assert np.isnan(scores).tolist() == [True, False, False]
    assert scores[1] == pytest.approx(-scores[2])


@settings(deadline=None)
@given(of_signals)
def test_names_are_those_of_the_signals_that_are_read(text):
    expression = parse_expression(text)
    assert set(expression.names) == names_in(text)
    assert len(set(expression.names)) == len(expression.names)
    assert expression.signals == tuple(SIGNALS[name] for name in expression.names)


@settings(deadline=None)
@given(of_signals, st.randoms())
def test_without_rank_and_z_a_problem_s_score_depends_on_no_other(text, random):
    order = random.sample(range(4), 4)
    expression = parse_expression(text)
    permuted = expression({name: values[order] for name, values in VALUES.items()})
    np.testing.assert_array_equal(permuted, expression(VALUES)[order])


@settings(deadline=None)
@given(of_signals)
def test_without_a_signal_there_is_no_score_whatever_the_arithmetic(text):
    """Not even where IEEE has one, as 1 for nan ** 0."""
    expression = parse_expression(text)
    found = expression({name: np.append(values, NAN) for name, values in VALUES.items()})
    np.testing.assert_array_equal(found[:-1], expression(VALUES))
    assert np.isnan(found[-1])


@pytest.mark.parametrize("text", ["t ** 0", "1 ** t", "0 * t", "min(t, 1)", "max(1, t)", "t + 1 - t"])
def test_constants_in_disguise_are_no_score_either(text):
    found = parse_expression(text)({"t": np.array([2.0, NAN])})
    assert np.isnan(found).tolist() == [False, True]


def test_constants_may_be_computed():
    assert parse_expression("(1 + 1) * t")({"t": np.array([2.0, 3.0])}).tolist() == [4.0, 6.0]
    assert parse_expression("min(1, 2) * t + rank(7)")({"t": np.array([2.0, 3.0])}).tolist() == [2.5, 3.5]


def test_operators_bind_as_in_python():
    def value(text):
        return parse_expression(text)({"t": np.array([2.0])}).tolist()

    assert value("1 + t * 3") == [7.0]
    assert value("(1 + t) * 3") == [9.0]
    assert value("-t ** 2") == [-4.0]
    assert value("2 ** t ** 2") == [16.0]
    assert value("8 / t / 2") == [2.0]
    assert value(" t\n") == [2.0]


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("written", [str, lambda name: name.replace("_", "-"), lambda name: f" {name} "])
def test_a_signal_is_an_expression_and_may_be_written_with_hyphens(name, written):
    expression = parse_expression(written(name))
    assert (expression.text, expression.names) == (name, (name,))
    assert expression.of_direction == SIGNALS[name].of_direction
    values = np.array([1.0, NAN, -2.0])
    np.testing.assert_array_equal(expression({name: values}), values)


def test_within_an_expression_a_hyphen_is_a_difference():
    assert parse_expression("pass_rate-mean_reward").names == ("pass_rate", "mean_reward")
    assert parse_expression("mean-reward").names == ("mean_reward",)


def test_it_depends_on_the_direction_if_any_part_does():
    assert parse_expression("learnability + 0.1 * rank(dot)").of_direction
    assert not parse_expression("learnability - 0.1 * rank(norm)").of_direction


def test_division_by_zero_is_no_score_and_no_infinity():
    found = parse_expression("cosine / t")(VALUES)
    assert found.tolist() == pytest.approx([1 / 3, 1 / 12, NAN, 2.0], nan_ok=True)
    assert np.isnan(parse_expression("exp(1000 * cosine)")(VALUES)).tolist() == [False] * 3 + [True]
    assert np.isnan(parse_expression("log(t)")(VALUES)).tolist() == [False, True, True, False]
    assert np.isnan(parse_expression("0 / 0 + t")(VALUES)).all()


def test_ranks_go_from_0_to_1_and_ties_share_theirs():
    assert rank(np.array([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert rank(np.array([1.0, 2.0, 1.0, 3.0, 2.0])).tolist() == [0.125, 0.625, 0.125, 1.0, 0.625]
    assert rank(np.array([5.0, 5.0])).tolist() == [0.5, 0.5]
    assert rank(np.array([5.0])).tolist() == [0.0]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, NAN]), min_size=1, max_size=9).map(np.array))
def test_ranks_are_among_the_known(values):
    found = rank(values)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    known = values[~np.isnan(values)]
    np.testing.assert_array_equal(found[~np.isnan(values)], rank(known))
    if len(known) > 1:
        assert np.mean(found[~np.isnan(values)]) == pytest.approx(0.5)
        for value, place in zip(known, rank(known), strict=True):
            others = (known < value).sum() + ((known == value).sum() - 1) / 2
            assert place == pytest.approx(others / (len(known) - 1))


def test_z_has_mean_zero_and_deviation_one_over_the_known():
    found = parse_expression("z(t)")({"t": np.array([1.0, NAN, 3.0, 8.0])})
    assert np.isnan(found).tolist() == [False, True, False, False]
    assert np.nanmean(found) == pytest.approx(0, abs=1e-12)
    assert np.nanstd(found) == pytest.approx(1)
    assert np.isnan(parse_expression("z(t)")({"t": np.full(3, NAN)})).all()
    assert np.isnan(parse_expression("z(t)")({"t": np.full(3, 2.0)})).all()


REFUSED = [
    ("cosin", "'cosin' is no signal", "Did you mean 'cosine'?"),
    ("cosine + lerarnability", "'lerarnability' is no signal", "Did you mean 'learnability'?"),
    ("qqq", "'qqq' is no signal", f"Choose from: {', '.join(SIGNALS)}."),
    ("rnk(t)", "'rnk' is no function", "Did you mean 'rank'?"),
    ("__import__(t)", "'__import__' is no function", f"Choose from: {FUNCTION_NAMES}."),
    ("rank(t, cosine)", "rank was given 2 arguments", "Give it 1."),
    ("rank()", "rank was given 0 arguments", "Give it 1."),
    ("min(t)", "min was given 1 arguments", "Give it 2."),
    ("max(t, t, t)", "max was given 3 arguments", "Give it 2."),
    ("1", "it reads no signal", f"Choose from: {', '.join(SIGNALS)}."),
    ("sqrt(2) + 1", "it reads no signal", f"Choose from: {', '.join(SIGNALS)}."),
]
NEITHER = [
    ("t.real", "t.real"),
    ("t.__class__(t)", "t.__class__(t)"),
    ("[t for t in t]", "[t for t in t]"),
    ("'t'", "'t'"),
    ("t + 'a'", "'a'"),
    ("t[0]", "t[0]"),
    ("lambda: t", "lambda: t"),
    ("t if t else t", "t if t else t"),
    ("t < 1", "t < 1"),
    ("t and cosine", "t and cosine"),
    ("not t", "not t"),
    ("~t", "~t"),
    ("t // 2", "t // 2"),
    ("t % 2", "t % 2"),
    ("t @ t", "t @ t"),
    ("True * t", "True"),
    ("1j * t", "1j"),
    ("None", "None"),
    ("rank(values=t)", "rank(values=t)"),
    ("rank(*t)", "*t"),
    ("(t, cosine)", "(t, cosine)"),
    ("(t := 1)", "(t := 1)"),
    ("f'{t}'", "f'{t}'"),
    ("t * 1" + "0" * 400, "1" + "0" * 400),
    ("t * 1e999", "1e309"),
]
UNPARSED = [
    ("", "invalid syntax"),
    ("  ", "invalid syntax"),
    ("cosine +", "invalid syntax"),
    ("(t", "'(' was never closed"),
    ("t = 1", "invalid syntax"),
    ("import os", "invalid syntax"),
    ("t; t", "invalid syntax"),
    ("t\0", "source code string cannot contain null bytes"),
]


@pytest.mark.parametrize(
    ("text", "received", "remedy"),
    [
        *REFUSED,
        *(
            (text, f"{part!r} is neither", f"Functions are {FUNCTION_NAMES}; operators + - * / **.")
            for text, part in NEITHER
        ),
    ],
)
def test_what_is_no_expression_is_refused(text, received, remedy):
    with pytest.raises(SettingsError) as raised:
        parse_expression(text)
    assert str(raised.value) == f"{WANTS}; in {text!r}, {received}. {remedy}"


@pytest.mark.parametrize(("text", "reason"), UNPARSED)
def test_what_does_not_parse_is_refused(text, reason):
    with pytest.raises(SettingsError) as raised:
        parse_expression(text)
    expected = f"{WANTS}; in {text!r}, it does not parse: "
    assert str(raised.value).startswith(expected)
    assert str(raised.value).endswith(". Write it as in 'cosine * learnability'.")
    assert reason in str(raised.value)


def test_one_that_is_too_long_is_refused_before_it_is_parsed():
    longest = "t" + " " * (LONGEST - 2) + "+"
    assert len(longest) == LONGEST
    too_long = longest + "t"
    with pytest.raises(SettingsError) as raised:
        parse_expression(too_long)
    assert str(raised.value) == (
        f"{WANTS}; in {too_long!r}, it does not parse: it has more than 500 characters. "
        "Write it as in 'cosine * learnability'."
    )
    assert parse_expression("t+" * (LONGEST // 2 - 1) + "t").names == ("t",)


def test_the_functions_are_all_documented_here():
    assert ", ".join(FUNCTIONS) == FUNCTION_NAMES
