r"""Rewards that compare text, numbers and letters, with nothing to install.

Each returns 1.0 or 0.0. A completion that holds no answer is wrong (0.0). A reference answer that
cannot be read is an error of the data, so it raises, and the rollout fails with that reason.
"""

import re
from fractions import Fraction
from typing import Any

_MINUS = str.maketrans({"\N{MINUS SIGN}": "-"})

# A minus belongs to the number only where it cannot be a subtraction: "= -4" and "(-4", not "5-9" or "5 - 9".
_NUMBER = re.compile(
    r"""
    (?P<sign> (?<![\w.)\]}%]) [+-] )? \$?
    (?P<size> (?: \d{1,3} (?:,\d{3})+ (?!\d) | \d+ ) (?:\.\d+)? | \.\d+ )
    (?P<exponent> [eE][+-]?\d{1,3} (?! \w | \.\d ) )?
    (?: / (?P<divisor> \d+ ) (?! \d | \.\d | / ) )?
    """,
    re.VERBOSE | re.ASCII,
)


def exact(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:  # noqa: ARG001
    """Return 1.0 if completion and answer are the same text, apart from white space around them."""
    return float(solution_str.strip() == ground_truth.strip())


def numeric(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:  # noqa: ARG001
    """Return 1.0 if the last number of the completion equals the answer's last number, exactly.

    Understood are ``1,234``, ``-4``, ``0.5``, ``.5``, ``3/4``, ``1.5e-3``, ``$12`` and ``12.`` at the end
    of a sentence. The unit after a number is not read, percent included: ``50%`` is 50. The answer may
    end a derivation, as GSM8K's ``#### 42`` does.

    Raises:
        ValueError: If the answer holds no number.
    """
    expected = last_number(ground_truth)
    if expected is None:
        raise ValueError(f"the answer {ground_truth!r} holds no number")
    return float(last_number(solution_str) == expected)


def last_number(text: str) -> Fraction | None:
    """Return the last number in ``text``, or None if there is none or it has no value, as in 1/0."""
    found = list(_NUMBER.finditer(text.translate(_MINUS)))
    if not found:
        return None
    part = found[-1].groupdict(default="")
    try:
        size = Fraction(part["sign"] + part["size"].replace(",", "") + part["exponent"])
        return size / Fraction(part["divisor"] or "1")
    # Python reads no integer of more than 4,300 digits, and a policy in a loop writes such.
    except (ValueError, ZeroDivisionError):
        return None
