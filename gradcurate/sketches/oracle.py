"""The exact policy gradient by plain autograd on the weights: slow, and true by construction.

It shares nothing with the sketching path but the list of weights: one rollout at a time,
no padding, all logits, `torch.autograd`. `gradcurate verify` and the tests compare against it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from gradcurate.sketches.direction import Direction, dot, norm
from gradcurate.sketches.discovery import untied_head
from gradcurate.sketches.modules import GradientSpace

WeightedRollout = tuple[Sequence[int], Sequence[int], float | Tensor]
"""Prompt token ids, completion token ids, weight: of the whole, or of each token."""


def exact_gradient(
    model: Any, space: GradientSpace, rollouts: Iterable[WeightedRollout], temperature: float = 1.0
) -> Direction:
    """Return ``sum_i w[i] grad log pi(rollout i)`` over the space's weights, in float32."""
    with _asking_for_gradients(model, space) as weights:
        sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
        for prompt, completion, factor in rollouts:
            logprobs = token_logprobs(model, prompt, completion, temperature)
            torch.autograd.backward((factor * logprobs).sum())
            _move_gradients(weights, sums)
    return {
        fused.name: torch.cat([m.to_matrix(sums[m.parameter]) for m in fused.members])
        for fused in space.modules
    }


def cosine(left: Direction, right: Direction) -> float:
    """Return the cosine of the angle between two gradients."""
    return dot(left, right) / (norm(left) * norm(right))


@contextmanager
def _asking_for_gradients(model: Any, space: GradientSpace) -> Iterator[dict[str, nn.Parameter]]:
    """Unfreeze the space's weights, and freeze them again."""
    model.requires_grad_(False)
    with untied_head(model, space):
        weights = {m.parameter: model.get_parameter(m.parameter) for m in space.members}
        for weight in weights.values():
            weight.requires_grad_(True).grad = None
        try:
            yield weights
        finally:
            model.requires_grad_(False)
            model.zero_grad(set_to_none=True)


def token_logprobs(
    model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float
) -> Float[Tensor, " T"]:
    """Return the log-probability of each token of a completion."""
    tokens = torch.tensor([[*prompt, *completion]], device=model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logprobs = log_softmax(logits.float() / temperature, dim=-1)
    chosen: Tensor = logprobs.gather(1, tokens[0, len(prompt) :, None])[:, 0]
    return chosen


def _move_gradients(weights: Mapping[str, Tensor], sums: dict[str, Tensor]) -> None:
    """Add the gradients to their sums and clear them: a bfloat16 sum would lose small terms."""
    for name, weight in weights.items():
        if weight.grad is not None:
            sums[name] += weight.grad
            weight.grad = None
