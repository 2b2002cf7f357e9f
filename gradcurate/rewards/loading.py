"""From what the user wrote after ``--reward`` to a function.

A reward is a built-in name, or ``path/to/file.py:function``. Packages that only one reward needs are
imported when that reward is asked for.
"""

from collections.abc import Callable
from typing import Any

from gradcurate.errors import RewardError
from gradcurate.rewards import builtin
from gradcurate.rewards.choice import choice
from gradcurate.rewards.user import load_user_reward
from gradcurate.suggestion import did_you_mean


def load_reward(spec: str) -> Callable[..., Any]:
    """Return the reward function that ``spec`` names.

    It is called by keyword with ``data_source``, ``solution_str``, ``ground_truth`` and ``extra_info``.

    Raises:
        RewardError: If there is no such reward, or it cannot be loaded.
    """
    if spec in BUILT_IN:
        return BUILT_IN[spec]()
    if ":" in spec or spec.endswith(".py"):
        return load_user_reward(spec)
    raise RewardError(
        f"a reward is one of {', '.join(BUILT_IN)}, or path/to/file.py:function",
        f"got {spec!r}",
        f"Choose one of these names, or point to your own function.{did_you_mean(spec, BUILT_IN)}",
    )


def _load_math() -> Callable[..., Any]:
    from gradcurate.rewards.mathematics import math

    return math


def _load_reasoning_gym() -> Callable[..., Any]:
    try:
        from gradcurate.rewards.gym import score
    except ImportError as error:
        raise RewardError(
            "the reward 'reasoning_gym' needs the package reasoning-gym",
            f"importing it failed: {error}",
            "Run `pip install 'gradcurate[reasoning-gym]'`.",
        ) from error
    return score


BUILT_IN: dict[str, Callable[[], Callable[..., Any]]] = {
    "math": _load_math,
    "exact": lambda: builtin.exact,
    "numeric": lambda: builtin.numeric,
    "choice": lambda: choice,
    "reasoning_gym": _load_reasoning_gym,
}
