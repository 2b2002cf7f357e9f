r"""The reward of multiple-choice problems: the letter that a completion settles on.

Letters are looked for in three readings, the plainest first, and the last letter of the first
reading that finds any is the answer:

1. stated: ``\boxed{B}``, ``The answer is B``, ``Answer: (b)``, ``<answer>B</answer>``;
2. marked: the whole completion, ``(B)``, ``**B**``, ``B.`` or ``B)`` at the start of a line;
3. bare: a capital letter standing alone in prose, where neither the article "A" nor "I" counts.
"""

import re
from typing import Any

# After "is", a letter that another word follows is a letter only if it is a capital: "is a matter of".
_LETTER = r"(?:[(\[*$]|\\text\{|\\textbf\{|\\mathrm\{|option\s|choice\s)*(?P<letter>[A-Za-z])(?![A-Za-z0-9'])"
_STATED = (
    re.compile(r"\\boxed\s*\{\s*" + _LETTER),
    re.compile(r"<answer>\s*" + _LETTER),
    re.compile(
        r"(?i:answer|choice|option)\**(?:\s+(?i:is|would\sbe)|\s*:)[:\s*]*" + _LETTER + r"(?P<next>\s+\w)?"
    ),
)
_MARKED = (
    re.compile(r"\A\W*(?P<letter>[A-Za-z])\W*\Z"),
    re.compile(r"\((?P<letter>[A-Za-z])\)"),
    re.compile(r"\*\*\(?(?P<letter>[A-Za-z])[).:]?\*\*"),
    re.compile(r"^\s*(?P<letter>[A-Za-z])(?:[.):]|\s*$)", re.MULTILINE),
)
_BARE = (re.compile(r"(?<![\w'.])(?P<letter>[B-HJ-Z]|A(?!\s+\w))(?![\w']|\.\w)"),)


def choice(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:  # noqa: ARG001
    """Return 1.0 if the letter that the completion settles on is the answer's, whatever their case.

    Raises:
        ValueError: If the answer is not one letter, bare or in brackets.
    """
    expected = re.fullmatch(r"\W*([A-Za-z])\W*", ground_truth)
    if expected is None:
        raise ValueError(f"the answer {ground_truth!r} is not one letter")
    return float(stated_choice(solution_str) == expected[1].upper())


def stated_choice(text: str) -> str | None:
    """Return the upper-case letter that ``text`` settles on, or None if it names none."""
    for patterns in (_STATED, _MARKED, _BARE):
        found = [match for pattern in patterns for match in pattern.finditer(text) if not _is_prose(match)]
        if found:
            return max(found, key=lambda match: match.start("letter"))["letter"].upper()
    return None


def _is_prose(match: re.Match[str]) -> bool:
    """Tell "the answer is a matter of taste" and "the answer is I think" from "the answer is A because"."""
    followed = match.groupdict().get("next") is not None
    return followed and (match["letter"] == "I" or match["letter"].islower())
