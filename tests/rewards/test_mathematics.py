"""The math reward: which references parse, what equals them, and what is an error."""

import pytest

from gradcurate.rewards.mathematics import math


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("The answer is 12.", "12"),
        ("1,234 dollars", "1234"),
        ("\\boxed{1/2}", "\\frac12"),
        ("so $\\frac{1}{2}$", "0.5"),
        ("#### 42", "6*7 = 42\n#### 42"),
        ("<answer>12</answer>", "12"),
        ("\\boxed{x+1}", "1 + x"),
        ("\\boxed{1024}", "2^{10}"),
        ("\\boxed{3}", "$\\boxed{3}$"),
        ("\\boxed{12}", "12 dollars"),
    ],
)
def test_equal_expressions_earn_one_and_an_added_one_earns_nothing(completion, answer):
    assert math("s", completion, answer, {}) == 1.0
    assert math("s", "\\boxed{777}", answer, {}) == 0.0


@pytest.mark.parametrize("completion", ["", "I do not know.", "\\boxed{}", "\\frac{"])
def test_a_completion_that_cannot_be_parsed_is_wrong(completion):
    assert math("s", completion, "3", {}) == 0.0


@pytest.mark.parametrize("answer", ["", "Paris", "???", "\\frac{", "#### "])
def test_an_answer_that_cannot_be_parsed_is_an_error_and_not_a_zero(answer):
    with pytest.raises(ValueError, match=r"is not a mathematical expression$"):
        math("s", "3", answer, {})
