"""From what the user wrote after ``--reward`` to a function.

A reward is a built-in name, ``path/to/file.py:function``, or the file of a judge; several add up. Packages
that only one reward needs are imported when that reward is asked for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradcurate.errors import RewardError
from gradcurate.rewards import builtin
from gradcurate.rewards.choice import choice
from gradcurate.rewards.code import code_reward
from gradcurate.rewards.judges.asking import judge_reward
from gradcurate.rewards.request import RewardOutcome, RewardRequest
from gradcurate.rewards.several import weighted_sum
from gradcurate.rewards.spec import RewardSpec
from gradcurate.rewards.styles import in_style
from gradcurate.rewards.user import load_user_rewards
from gradcurate.rewards.verdict import outcome_of
from gradcurate.suggestion import did_you_mean

Reward = Callable[[RewardRequest], RewardOutcome]


def load_rewards(spec: RewardSpec) -> Reward:
    """Return one function for all the rewards of a specification.

    Raises:
        RewardError: If there is no such reward, it cannot be loaded, or it has another signature.
    """
    if not spec.names:
        raise RewardError("--reward must name at least one reward", "it names none", "Give one.")
    functions = [(name, _load(name, spec)) for name in spec.names]
    if len(functions) == 1 and not spec.weights:
        (_, function) = functions[0]
        return lambda request: outcome_of(function(request))
    return weighted_sum(functions, spec.weights or [1.0] * len(functions))


def _load(name: str, spec: RewardSpec) -> Callable[[RewardRequest], Any]:
    if name in BUILT_IN:
        return in_style(BUILT_IN[name](spec), name, "verl", None)
    if name.endswith(".toml"):
        return judge_reward(Path(name).expanduser(), spec)
    if ":" in name or name.endswith(".py"):
        return _load_user(name, spec)
    raise RewardError(
        f"a reward is one of {', '.join(BUILT_IN)}, path/to/file.py:function, or a judge's .toml",
        f"got {name!r}",
        f"Choose one of these names, or point to your own function.{did_you_mean(name, BUILT_IN)}",
    )


def _load_user(name: str, spec: RewardSpec) -> Callable[[RewardRequest], Any]:
    functions, weights = load_user_rewards(name)
    if not weights:
        return in_style(functions[0], name, spec.style, spec.columns)
    path = name.rpartition(":")[0]
    named = [(f"{path}:{function.__name__}", function) for function in functions]
    styled = [(own, in_style(function, own, "verifiers", spec.columns)) for own, function in named]
    return weighted_sum(styled, weights)


def _load_math(_spec: RewardSpec) -> Callable[..., Any]:
    from gradcurate.rewards.mathematics import math

    return math


def _load_reasoning_gym(_spec: RewardSpec) -> Callable[..., Any]:
    try:
        from gradcurate.rewards.gym import score
    except ImportError as error:
        raise RewardError(
            "the reward 'reasoning_gym' needs the package reasoning-gym",
            f"importing it failed: {error}",
            "Run `pip install 'gradcurate[reasoning-gym]'`.",
        ) from error
    return score


BUILT_IN: dict[str, Callable[[RewardSpec], Callable[..., Any]]] = {
    "math": _load_math,
    "exact": lambda _: builtin.exact,
    "numeric": lambda _: builtin.numeric,
    "choice": lambda _: choice,
    "code": code_reward,
    "reasoning_gym": _load_reasoning_gym,
}
