"""Hooks that hand out, module by module, what a weight gradient is made of.

The weights stay frozen: no weight-gradient product runs. During a backward pass each fused module
yields its inputs ``a`` and the gradient ``d`` of its outputs, once all of its members have
theirs; `consume` is called with both and they are let go.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gradcurate.sketches.modules import FusedModule, GradientSpace

Consumer = Callable[[FusedModule, Tensor, list[Tensor]], None]
"""Called with a fused module, its inputs (B, T, I) and its members' output gradients (B, T, _)."""


@contextmanager
def collecting(model: Any, space: GradientSpace, consume: Consumer) -> Iterator[None]:
    """Call ``consume`` for every fused module of each backward pass in this context."""
    handles = [_differentiable_embeddings(model)]
    for fused in space.modules:
        handles += _hook_fused(model, fused, consume)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _differentiable_embeddings(model: Any) -> Any:
    """Start the graph at the embeddings, since no weight asks for a gradient."""
    return model.get_input_embeddings().register_forward_hook(
        lambda _module, _args, output: output.requires_grad_()
    )


def _hook_fused(model: Any, fused: FusedModule, consume: Consumer) -> list[Any]:
    inputs: list[Tensor] = []
    grads: dict[str, Tensor] = {}

    def on_forward(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if name == fused.members[0]:
                inputs[:] = [args[0].detach()]
            output.register_hook(lambda grad: on_backward(name, grad))  # type: ignore[no-untyped-call]

        return hook

    def on_backward(name: str, grad: Tensor) -> None:
        grads[name] = grad
        if len(grads) == len(fused.members):
            consume(fused, inputs.pop(), [grads.pop(member) for member in fused.members])

    return [model.get_submodule(name).register_forward_hook(on_forward(name)) for name in fused.members]
