"""Hooks that hand out, module by module, the weight gradients of a backward pass.

The weights stay frozen and no weight-gradient product runs, but for those that only autograd can
form. Of a hooked module, inputs and output gradients are handed out once all members have theirs;
of another, the gradient as soon as it is complete. Nothing is kept after that.

The graph starts at the first outputs of the gradient space, so that whatever comes before is a
forward pass only: with the output layer alone, all of the model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradcurate.sketches.gradients import Factored, Formed, ModuleGradients
from gradcurate.sketches.modules import FusedModule, GradientSpace, Member

POSITIONS_BY_FEATURES = 2
Consumer = Callable[[FusedModule, ModuleGradients], None]


@contextmanager
def collecting(model: Any, space: GradientSpace, consume: Consumer) -> Iterator[None]:
    """Call ``consume`` for every fused module of each backward pass in this context."""
    handles: list[Any] = []
    for fused in space.modules:
        handles += (_hook_outputs if fused.hooked else _hook_parameter)(model, fused, consume)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.requires_grad_(False)


def _hook_outputs(model: Any, fused: FusedModule, consume: Consumer) -> list[Any]:
    inputs: list[Tensor] = []
    grads: dict[str, Tensor] = {}

    def on_forward(member: Member) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():  # the first pass of gradient checkpointing
                return None
            if member is fused.members[0]:
                inputs[:] = [_with_rows(args[0].detach())]
            start = None if output.requires_grad else output.detach().requires_grad_()
            watched = output if start is None else start
            watched.register_hook(lambda grad: on_backward(member, grad))  # type: ignore[no-untyped-call]
            return None if start is None else start.clone()  # a leaf could not be changed in place

        return hook

    def on_backward(member: Member, grad: Tensor) -> None:
        grads[member.parameter] = _with_rows(grad)
        if len(grads) == len(fused.members):
            consume(fused, Factored(inputs.pop(), [grads.pop(m.parameter) for m in fused.members]))

    return [model.get_submodule(m.module).register_forward_hook(on_forward(m)) for m in fused.members]


def _hook_parameter(model: Any, fused: FusedModule, consume: Consumer) -> list[Any]:
    (member,) = fused.members

    def on_accumulated(weight: Tensor) -> None:
        if weight.grad is not None:
            gradient, weight.grad = member.to_matrix(weight.grad), None
            consume(fused, Formed(gradient))

    weight = model.get_parameter(member.parameter).requires_grad_()
    return [weight.register_post_accumulate_grad_hook(on_accumulated)]


def _with_rows(tensor: Tensor) -> Tensor:
    """Give the positions that an output layer reads, which are those of one row, that row."""
    return tensor if tensor.ndim > POSITIONS_BY_FEATURES else tensor[None]
