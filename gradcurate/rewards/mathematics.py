r"""The ``math`` reward: mathematical equality, by the math-verify package.

The reference answer may be a number, LaTeX with or without ``$`` or ``\boxed{}``, or a derivation
that ends in ``#### 42``. One that cannot be parsed raises, and the rollout fails. A completion that
cannot be parsed is wrong: 0.0.

math-verify's own limits are off: it counts a comparison that ran out of time as unequal, which would
be a 0 that nobody decided, and its alarm cannot stop arithmetic on huge integers. The deadline of the
`RewardPool` stops both, and the rollout fails with that reason.
"""

import re
from typing import Any

from math_verify import parse, verify

from gradcurate.rewards.completion import tagged_answer

_WORD = re.compile(r"[A-Za-z]{3,}")


def math(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:  # noqa: ARG001
    """Return 1.0 if the completion's final expression equals the answer, else 0.0.

    Raises:
        ValueError: If the answer is not a mathematical expression.
    """
    expected = parse(_as_latex(ground_truth), parsing_timeout=None)
    # Text that math-verify could not turn into an expression comes back as a string.
    if all(isinstance(expression, str) for expression in expected):
        raise ValueError(f"the answer {ground_truth!r} is not a mathematical expression")
    tagged = tagged_answer(solution_str)
    received = parse(solution_str if tagged is None else tagged, parsing_timeout=None)
    return float(verify(expected, received, timeout_seconds=None))


def _as_latex(answer: str) -> str:
    """Mark a bare expression as LaTeX: unmarked, math-verify reads ``2^{10}`` as 2 and ``x+1`` not at all."""
    final = answer.rpartition("####")[2].strip()
    marked = "$" in final or "\\boxed" in final
    prose = "\\" not in final and _WORD.search(final) is not None
    return final if marked or prose else f"\\boxed{{{final}}}"
