"""The multiple-choice reward: what counts as a stated letter, and what is only prose."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcurate.rewards.choice import choice, stated_choice


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("a", "A"),
        ("I", "I"),
        ("The answer is B.", "B"),
        ("The answer is A because it is.", "A"),
        ("the answer is I think B", "B"),
        ("**B**", "B"),
        ("**Answer:** (b)", "B"),
        ("\\boxed{B}", "B"),
        ("so $\\boxed{\\text{C}}$", "C"),
        ("<answer>e</answer>", "E"),
        ("The answer is A. Wait, the answer is (C).", "C"),
        ("The answer is B, since (A) is wrong.", "B"),
        ("(A) fails, so (D)", "D"),
        ("B) Paris", "B"),
        ("A is a fruit.\nB.", "B"),
        ("So I choose D", "D"),
        ("I pick A.", "A"),
    ],
)
def test_the_last_stated_letter_is_the_choice(text, letter):
    assert stated_choice(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A dog",
        "It's a dog and I like it",
        "The answer is a matter of taste",
        "The answer is Berlin",
        "I think so",
    ],
)
def test_prose_is_no_choice(text):
    assert stated_choice(text) is None
    assert choice("s", text, "A", {}) == 0.0


@given(
    st.sampled_from(string.ascii_letters),
    st.sampled_from(["{}", "({})", "**{}**", "\\boxed{{{}}}", "The answer is {}."]),
)
def test_every_letter_is_found_in_every_form(letter, form):
    completion = form.format(letter)
    assert choice("s", completion, letter.swapcase(), {}) == 1.0
    other = "B" if letter.upper() == "A" else "A"
    assert choice("s", completion, other, {}) == 0.0


def test_an_answer_that_is_no_letter_is_an_error_and_not_a_zero():
    with pytest.raises(ValueError, match=r"^the answer 'Paris' is not one letter$"):
        choice("s", "A", "Paris", {})
