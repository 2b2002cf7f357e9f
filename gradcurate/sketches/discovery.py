"""Finding a model's gradient space, and proving that nothing of it is missed.

The space is: of a full model, every matrix but embeddings and output layer; of a model with a PEFT
adapter, the adapter's own matrices; with patterns, what they match of these and of the output layer.

One forward and backward pass over a few tokens tells what each module read, and whether its inputs
and output gradients account for all of the gradient that autograd finds. Where they do not (fused
experts, a module that is used twice or that reads rows without their rollout), autograd will form
that gradient. A matrix that plays no part at all is an error: no gradient is silently smaller.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gradcurate.errors import PolicyError
from gradcurate.sketches.modules import FusedModule, GradientSpace, Member

FEWEST_MATRIX_DIMENSIONS = 2
INPUT_DIMENSIONS = 3  # batch, token, feature
PROBE_TOKENS = 4
TOLERANCE = 0.02  # of a gradient's length; over so few tokens, bfloat16 loses less than half of it
EXAMPLES = 3


@dataclass
class _Seen:
    """What the probe saw of one weight."""

    inputs: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    reached: bool = False
    accounted: bool = False


def find_gradient_space(model: Any, patterns: Sequence[str] = ()) -> GradientSpace:
    """Return the gradient space of a causal language model, its weights frozen.

    Args:
        model: The model.
        patterns: Shell patterns of module names or of their dotted ends, as in ``q_proj``,
            ``layers.1?.mlp.*`` or ``lm_head``. None of them: the whole space.

    Raises:
        PolicyError: A pattern matches nothing, or a matrix plays no part in the forward pass.
    """
    members = _candidates(model, patterns)
    seen = _probe(model, members)
    unreached = [member.parameter for member in members if not seen[member.parameter].reached]
    if unreached or not members:
        raise _unreached(model, unreached)
    by_parameter = {member.parameter: member for member in members}
    readers: dict[int, list[Member]] = {}
    for parameter, found in seen.items():
        if found.accounted:
            readers.setdefault(id(found.inputs[0]), []).append(by_parameter[parameter])
    formed = [
        FusedModule(m.parameter, (m,), hooked=False) for m in members if not seen[m.parameter].accounted
    ]
    return GradientSpace((*map(_fuse, readers.values()), *formed))


def probe_tokens(model: Any) -> Int[Tensor, "1 T"]:
    """Return a few tokens: not a single one, which may be padding that is embedded as zeros."""
    return torch.arange(PROBE_TOKENS, device=model.device)[None]


def adapter_or_all(model: Any) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of a PEFT adapter, or all of a model without one."""
    named = list(model.named_parameters())
    if not hasattr(model, "peft_config"):
        return named
    own = (model.base_model.prefix, ".modules_to_save.")
    return [(name, parameter) for name, parameter in named if any(part in name for part in own)]


def head_name(model: Any) -> str | None:
    """Return the name of the output layer, or None where the model has none."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


@contextmanager
def untied_head(model: Any, space: GradientSpace) -> Iterator[None]:
    """Part an output layer that is in the space from embeddings that it is tied to, which are not."""
    head, weight = model.get_output_embeddings(), f"{head_name(model)}.weight"
    tied = head.weight if weight in {member.parameter for member in space.members} else None
    if tied is not None:
        head.weight = nn.Parameter(tied.detach(), requires_grad=False)
    try:
        yield
    finally:
        if tied is not None:
            head.weight = tied


def _candidates(model: Any, patterns: Sequence[str]) -> list[Member]:
    """Return the weights to look for, the output layer last."""
    head = head_name(model)
    owners = {id(module.weight): name for name, module in model.named_modules() if _is_linear(module)}
    apart = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    if head is not None:
        apart.add(id(model.get_submodule(head).weight))
    members = [
        _member(model, owners.get(id(parameter)), name)
        for name, parameter in adapter_or_all(model)
        if parameter.ndim >= FEWEST_MATRIX_DIMENSIONS and id(parameter) not in apart
    ]
    if not patterns:
        return members
    if head is not None:
        members.append(_member(model, head, f"{head}.weight"))
    return _matching(members, patterns)


def _member(model: Any, owner: str | None, parameter: str) -> Member:
    transposed = owner is not None and isinstance(model.get_submodule(owner), Conv1D)
    shape = tuple(model.get_parameter(parameter).shape)
    return Member(owner or parameter, parameter, shape, transposed)


def _matching(members: Sequence[Member], patterns: Sequence[str]) -> list[Member]:
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {m.parameter for m in members if _matches(m.module, pattern)}
        if not matched:
            raise PolicyError(
                "Every pattern of --modules must match a module of the policy",
                f"{pattern!r} matches none of {len(members)}",
                f"There are {members[0].module}, ..., {members[-1].module}.",
            )
        chosen |= matched
    return [member for member in members if member.parameter in chosen]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")


def _probe(model: Any, members: Sequence[Member]) -> dict[str, _Seen]:
    """Return what a pass over a few tokens shows of each weight, in the order in which modules ran."""
    seen: dict[str, _Seen] = {}
    with torch.enable_grad(), _watched(model, members, seen):
        logits = model(input_ids=probe_tokens(model), use_cache=False).logits
        torch.autograd.backward(logits.float().log_softmax(-1)[..., 0].sum())
    for member in members:
        seen.setdefault(member.parameter, _Seen())
    return seen


@contextmanager
def _watched(model: Any, members: Sequence[Member], seen: dict[str, _Seen]) -> Iterator[None]:
    """Let the members' gradients be computed, looked at one by one, and dropped."""
    model.requires_grad_(False)
    head, handles = head_name(model), list[Any]()
    for member in members:
        weight = model.get_parameter(member.parameter).requires_grad_()
        handles.append(weight.register_post_accumulate_grad_hook(_compare(member, seen, head)))
        module = model.get_submodule(member.module) if member.module != member.parameter else None
        if module is not None:
            handles.append(module.register_forward_hook(_remember(member, seen)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.requires_grad_(False)


def _remember(member: Member, seen: dict[str, _Seen]) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found = seen.setdefault(member.parameter, _Seen())
        found.inputs.append(args[0])
        output.register_hook(found.grads.append)  # type: ignore[no-untyped-call]

    return hook


def _compare(member: Member, seen: dict[str, _Seen], head: str | None) -> Any:
    """Return a hook that holds what the module showed against its weight's whole gradient."""

    def hook(weight: Tensor) -> None:
        found, grad = seen.setdefault(member.parameter, _Seen()), weight.grad
        weight.grad = None
        found.reached = True
        if grad is None or len(found.inputs) != 1 or found.inputs[0].ndim != INPUT_DIMENSIONS:
            return
        if member.module == head:  # may be tied to the embeddings, whose share is not meant
            found.accounted = True
            return
        shown = found.grads[0].flatten(0, 1).float().T @ found.inputs[0].detach().flatten(0, 1).float()
        whole = member.to_matrix(grad.float())
        found.accounted = bool((shown - whole).norm() <= TOLERANCE * whole.norm())

    return hook


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _fuse(members: Sequence[Member]) -> FusedModule:
    prefix = members[0].module.rpartition(".")[0]
    same_parent = all(member.module.rpartition(".")[0] == prefix for member in members)
    names = [m.module.removeprefix(f"{prefix}.") if same_parent else m.module for m in members]
    return FusedModule(
        f"{prefix}.{'+'.join(names)}" if same_parent and prefix else "+".join(names), tuple(members)
    )


def _unreached(model: Any, parameters: Sequence[str]) -> PolicyError:
    more = f" and {len(parameters) - EXAMPLES} more" if len(parameters) > EXAMPLES else ""
    return PolicyError(
        "Every matrix of the gradient space must play a part in the forward pass",
        f"{type(model).__name__} also has {', '.join(parameters[:EXAMPLES])}{more}"
        if parameters
        else f"{type(model).__name__} has no matrix at all",
        "A gradient without them would be silently smaller; choose others with --modules.",
    )
