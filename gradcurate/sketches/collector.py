"""Hooks that hand out, module by module, the weight gradients of a backward pass.

The weights stay frozen and no weight-gradient product runs, but for those that only autograd can
form. Of a hooked module, inputs and output gradients are handed out once all members have theirs;
of another, the gradient as soon as it is complete. Nothing is kept after that.

The graph starts at the first outputs of the gradient space, so that whatever comes before is a
forward pass only: with the output layer alone, all of the model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from gradcurate.sketches.gradients import Factored, Formed, ModuleGradients
from gradcurate.sketches.modules import FusedModule, GradientSpace, Member

POSITIONS_BY_FEATURES = 2
Consumer = Callable[[FusedModule, ModuleGradients], None]


@contextmanager
def collecting(
    model: Any, space: GradientSpace, consume: Consumer, *, recompute: bool = False
) -> Iterator[None]:
    """Call ``consume`` for every fused module of each backward pass in this context.

    Args:
        model: Its weights frozen.
        space: Where to hook.
        consume: Called with each fused module's gradients.
        recompute: Keep only the inputs of each block, and run its forward pass again when its turn
            comes (gradient checkpointing): a quarter more time for much less memory.
    """
    recording = _Recording()
    handles: list[Any] = []
    for fused in space.modules:
        handles += (
            _hook_outputs(model, fused, consume, recording)
            if fused.hooked
            else _hook_parameter(model, fused, consume)
        )
    try:
        with _recomputed_blocks(model, recording) if recompute else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()
        model.requires_grad_(False)


@final
@dataclass
class _Recording:
    """Whether modules' inputs are to be kept: not in a forward pass that will be run again."""

    on: bool = True


@contextmanager
def _recomputed_blocks(model: Any, recording: _Recording) -> Iterator[None]:
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for block in blocks:
        block.forward = _recomputed(block.forward, recording)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed(forward: Callable[..., Any], recording: _Recording) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        again = False

        def once(*args: Any, **kwargs: Any) -> Any:
            nonlocal again
            recording.on, again = again, True
            try:
                return forward(*args, **kwargs)
            finally:
                recording.on = True

        return checkpoint(once, *args, use_reentrant=False, **kwargs)

    return run


def _hook_outputs(model: Any, fused: FusedModule, consume: Consumer, recording: _Recording) -> list[Any]:
    inputs: list[Tensor] = []
    grads: dict[str, Tensor] = {}

    def consume_if_complete() -> None:
        """Either may come last: of a block that is run again, gradients of its end come before its inputs."""
        if inputs and len(grads) == len(fused.members):
            consume(fused, Factored(inputs.pop(), [grads.pop(m.parameter) for m in fused.members]))

    def on_input(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if recording.on and torch.is_grad_enabled():
            inputs[:] = [_with_rows(args[0].detach())]
            consume_if_complete()

    def on_output(member: Member) -> Any:
        def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            start = None if output.requires_grad else output.detach().requires_grad_()
            watched = output if start is None else start
            watched.register_hook(lambda grad: on_gradient(member, grad))  # type: ignore[no-untyped-call]
            return None if start is None else start.clone()  # a leaf could not be changed in place

        return hook

    def on_gradient(member: Member, grad: Tensor) -> None:
        grads[member.parameter] = _with_rows(grad)
        consume_if_complete()

    modules = [model.get_submodule(member.module) for member in fused.members]
    return [
        modules[0].register_forward_pre_hook(on_input),
        *(
            module.register_forward_hook(on_output(m))
            for module, m in zip(modules, fused.members, strict=True)
        ),
    ]


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
