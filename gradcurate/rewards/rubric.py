"""A verifiers ``Rubric`` as a reward: several functions, their weights, and what else they are given.

Known by its attributes, so that the package need not be installed: ``funcs`` and ``weights``, or
``reward_funcs`` and ``reward_weights`` before version 0.1.6; ``class_objects``, the parser among them.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

ATTRIBUTES = (("funcs", "weights"), ("reward_funcs", "reward_weights"))


def rubric_parts(found: Any) -> tuple[Sequence[Callable[..., Any]], Sequence[float]] | None:
    """Return the functions and weights of a rubric; None of anything else."""
    for functions, weights in ATTRIBUTES:
        if isinstance(getattr(found, functions, None), list) and hasattr(found, weights):
            given = getattr(found, "class_objects", {})
            return [_given(function, given) for function in getattr(found, functions)], getattr(
                found, weights
            )
    return None


def _given(function: Callable[..., Any], objects: dict[str, Any]) -> Callable[..., Any]:
    """Bind those of a rubric's objects that a function names."""
    named = {name: value for name, value in objects.items() if name in inspect.signature(function).parameters}
    bound = functools.partial(function, **named)
    functools.update_wrapper(bound, function)
    bound.__signature__ = inspect.signature(functools.partial(function, **named))  # type: ignore[attr-defined]
    return bound
