"""The end of an error message about a name that does not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or nothing if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def choose_from(name: str, known: Iterable[str]) -> str:
    """Return the closest known name as a question, or all known names if none is close."""
    known = list(known)
    return did_you_mean(name, known).lstrip() or f"Choose from: {', '.join(known)}."
