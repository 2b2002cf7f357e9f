"""The gradient space: every linear module of the transformer blocks, fused where inputs are shared.

Modules that read the very same tensor (q/k/v; gate/up) are one `FusedModule`: one input transform,
one output transform and one product serve them all. What reads what is found by one forward pass
over two tokens, so it is a property of the architecture and not of the data.

A matrix of the blocks that no linear module owns (fused experts, Conv1D, convolutions) would make
the gradient silently smaller; it is refused by name.
"""

import hashlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradcurate.errors import PolicyError

FEWEST_MATRIX_DIMENSIONS = 2
INPUT_DIMENSIONS = 3  # batch, token, feature


@dataclass(frozen=True)
class FusedModule:
    """Linear modules that share their input, stacked along their outputs.

    Attributes:
        name: The members' common prefix and own names, as in ``layers.0.self_attn.q_proj+k_proj``.
        members: Full names of the linear modules, in the order in which they are stacked.
        member_features: The members' output sizes.
        in_features: The shared input size.
    """

    name: str
    members: tuple[str, ...]
    member_features: tuple[int, ...]
    in_features: int

    @property
    def out_features(self) -> int:
        """Return the stacked output size."""
        return sum(self.member_features)


@dataclass(frozen=True)
class GradientSpace:
    """The fused modules whose weight gradients make up a policy's gradient, in forward order."""

    modules: tuple[FusedModule, ...]

    @property
    def digest(self) -> str:
        """Return a hash of names, members and shapes."""
        listing = [(m.name, m.members, m.member_features, m.in_features) for m in self.modules]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    @property
    def linear_names(self) -> tuple[str, ...]:
        """Return the names of all linear modules."""
        return tuple(itertools.chain.from_iterable(m.members for m in self.modules))


def find_gradient_space(model: Any) -> GradientSpace:
    """Return the gradient space of a causal language model.

    Raises:
        PolicyError: The model's blocks hold a matrix that no linear module of theirs owns or reads.
    """
    linears = _block_linears(model)
    inputs = _inputs_read(model, linears)
    _require_every_matrix(model, linears, inputs)
    groups: dict[int, list[str]] = {}
    for name, tensor in inputs.items():
        groups.setdefault(id(tensor), []).append(name)
    return GradientSpace(tuple(_fuse(names, linears) for names in groups.values()))


def _block_linears(model: Any) -> dict[str, nn.Linear]:
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _inputs_read(model: Any, linears: dict[str, nn.Linear]) -> dict[str, Tensor]:
    """Return the tensor each linear module reads, in forward order; holding them keeps ids unique."""
    seen: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0]

        return hook

    handles = [module.register_forward_pre_hook(remember(name)) for name, module in linears.items()]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _require_every_matrix(model: Any, linears: dict[str, nn.Linear], inputs: dict[str, Tensor]) -> None:
    covered = {id(linears[name].weight) for name in inputs}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    outside = covered | embeddings | ({id(head.weight)} if head is not None else set())
    missed = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim >= FEWEST_MATRIX_DIMENSIONS and id(parameter) not in outside
    ]
    flat = [name for name, tensor in inputs.items() if tensor.ndim != INPUT_DIMENSIONS]
    if flat:
        raise PolicyError(
            "Every linear module must read one row a token",
            f"{flat[0]} of {type(model).__name__} reads a tensor of shape {tuple(inputs[flat[0]].shape)}",
            "Which rollout its rows belong to cannot be told; this architecture is not supported yet.",
        )
    if missed or not inputs:
        raise PolicyError(
            "Every matrix of the transformer blocks must belong to a linear module that runs",
            f"{type(model).__name__} also has {', '.join(missed[:3]) or 'no linear module'}"
            + (f" and {len(missed) - 3} more" if len(missed) > 3 else ""),
            "A gradient without them would be silently smaller; this architecture is not supported yet.",
        )


def _fuse(names: list[str], linears: dict[str, nn.Linear]) -> FusedModule:
    prefix = names[0].rpartition(".")[0]
    same_parent = all(name.rpartition(".")[0] == prefix for name in names)
    tails = [name.rpartition(".")[2] for name in names] if same_parent else names
    return FusedModule(
        name=f"{prefix}.{'+'.join(tails)}" if same_parent else "+".join(tails),
        members=tuple(names),
        member_features=tuple(linears[name].out_features for name in names),
        in_features=linears[names[0]].in_features,
    )
