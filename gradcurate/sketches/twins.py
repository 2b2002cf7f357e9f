"""Two copies of a policy, a step ahead of it and a step behind along a direction, in float32.

Only the weights of the gradient space are there twice; everything else is shared, and is the policy's
own where that is in float32. A policy in bfloat16 is converted: a difference of its own arithmetic
would be nothing but rounding.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradcurate.errors import OutOfMemoryError, first_line
from gradcurate.sketches.direction import Direction, weight_parts
from gradcurate.sketches.discovery import untied_head
from gradcurate.sketches.halving import is_out_of_memory
from gradcurate.sketches.modules import GradientSpace


@dataclass(frozen=True)
class Twins:
    """The copies.

    Attributes:
        ahead: The policy, a step along the direction.
        behind: The policy, a step against it.
    """

    ahead: Any
    behind: Any


def build_twins(model: Any, space: GradientSpace) -> Twins:
    """Return two copies that have not moved.

    Raises:
        OutOfMemoryError: They do not fit.
    """
    with _fitting(), untied_head(model, space):
        own = {id(model.get_parameter(member.parameter)) for member in space.members}
        others = [t for t in itertools.chain(model.parameters(), model.buffers()) if id(t) not in own]
        shared = {id(tensor): _in_float32(tensor) for tensor in others}
        return Twins(*(_copy(model, space, shared) for _ in range(2)))


@torch.no_grad()
def move_twins(twins: Twins, model: Any, space: GradientSpace, direction: Direction, step: float) -> None:
    """Put the twins ``step`` times the direction ahead of the model and behind it."""
    for member, part in weight_parts(direction, space):
        weight = model.get_parameter(member.parameter)
        for twin, signed in ((twins.ahead, step), (twins.behind, -step)):
            torch.add(weight, part, alpha=signed, out=twin.get_parameter(member.parameter).data)


def _copy(model: Any, space: GradientSpace, shared: dict[int, Tensor]) -> Any:
    """Copy a model, its weights found by what they replace."""
    weights = [model.get_parameter(member.parameter) for member in space.members]
    own = {id(w): nn.Parameter(_wide(w).clone(), requires_grad=False) for w in weights}
    return copy.deepcopy(model, {**shared, **own})


def _in_float32(tensor: Tensor) -> Tensor:
    """Return the very same tensor where it is wide enough."""
    wide = _wide(tensor)
    if wide.dtype == tensor.dtype:
        return tensor
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


def _wide(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.detach()
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "Two copies of the gradient space in float32 must fit in memory beside the policy",
            f"they do not: {first_line(error)}",
            "Use --scorer sketch, fewer --modules, or a device with more memory.",
        ) from error
