"""The answer that a completion marks as its own, for rewards that read free text."""

import re

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def tagged_answer(completion: str) -> str | None:
    """Return the stripped content of the last ``<answer>...</answer>``, or None if there is none."""
    contents = _TAGGED.findall(completion)
    return contents[-1].strip() if contents else None
