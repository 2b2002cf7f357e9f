"""The score function of rollouts: one forward and backward pass that hooks can listen to.

``g[p, i] = sum_t grad log pi(o_t | q, o_<t)``, with the log-probabilities at the temperature that
the rollouts were sampled with, as TRL and verl compute them. Rows of a batch do not interact, so
the gradient of the summed log-probability holds every rollout's own.

Of rollouts that an earlier policy sampled, each token's part can be weighed by how much likelier this
policy finds it, ``min(pi / pi_sampler, cap)``: truncated importance sampling, as trainers correct for stale
rollouts (verl ``rollout_is``, TRL ``vllm_importance_sampling_cap``).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradcurate.sketches.output_layer import chunks, log_softmax, predicting_logits, predicting_states
from gradcurate.sketches.token_batch import TokenBatch


def backward_score_functions(
    model: Any, batch: TokenBatch, temperature: float, chunked: bool, importance_cap: float | None = None
) -> Float[Tensor, " N"]:
    """Run forward and backward; return the log-probability of each predicted token.

    Gradients reach whoever hooked the modules (`gradcurate.sketches.collector`).

    Args:
        model: Its weights frozen; something in it must ask for a gradient.
        batch: The rollouts.
        temperature: Divides the logits.
        chunked: The logits are those of the output layer (`output_layer.logits_are_of_head`).
        importance_cap: The largest importance weight; None: tokens are not weighed so.
    """
    targets = _Targets(
        batch.targets, batch.token_weights, batch.sampled_logprobs, importance_cap, temperature
    )
    with torch.enable_grad():
        return (_by_chunks if chunked else _at_once)(model, batch, targets)


def _at_once(model: Any, batch: TokenBatch, targets: "_Targets") -> Float[Tensor, " N"]:
    logits = predicting_logits(model, batch)
    logprobs, grads = _differentiate(logits.detach(), targets)
    torch.autograd.backward(logits, grads)
    return logprobs


def _by_chunks(model: Any, batch: TokenBatch, targets: "_Targets") -> Float[Tensor, " N"]:
    head, hidden = model.get_output_embeddings(), predicting_states(model, batch)
    hidden_grads = torch.zeros_like(hidden)
    logprobs = torch.empty(len(hidden), device=hidden.device)
    for part in chunks(hidden, head):
        piece = hidden[part].detach().requires_grad_(hidden.requires_grad)
        logits = head(piece)
        logprobs[part], grads = _differentiate(logits.detach(), targets.part(part))
        if logits.requires_grad:
            torch.autograd.backward(logits, grads)
        if piece.grad is not None:
            hidden_grads[part] = piece.grad
    if hidden.requires_grad:
        torch.autograd.backward(hidden, hidden_grads)
    return logprobs


@dataclass(frozen=True)
class _Targets:
    """Predicted tokens, and what their log-probabilities count."""

    tokens: Int[Tensor, " n"]
    weights: Float[Tensor, " n"] | None
    sampled_logprobs: Float[Tensor, " n"] | None
    importance_cap: float | None
    temperature: float

    def part(self, chosen: slice) -> "_Targets":
        weights, sampled = self.weights, self.sampled_logprobs
        return replace(
            self,
            tokens=self.tokens[chosen],
            weights=None if weights is None else weights[chosen],
            sampled_logprobs=None if sampled is None else sampled[chosen],
        )

    def scales(self, logprobs: Float[Tensor, " n"]) -> Float[Tensor, " n"] | None:
        """Return what each token's gradient is multiplied by; None: one."""
        counts = token_counts(logprobs, self.weights, self.sampled_logprobs, self.importance_cap)
        if self.temperature == 1:
            return counts
        return (torch.ones_like(logprobs) if counts is None else counts) / self.temperature


def token_counts(
    logprobs: Float[Tensor, " n"],
    weights: Float[Tensor, " n"] | None,
    sampled_logprobs: Float[Tensor, " n"] | None,
    importance_cap: float | None,
) -> Float[Tensor, " n"] | None:
    """Return what each token's log-probability counts in its row's; None: one.

    Args:
        logprobs: The policy's own.
        weights: The tokens' weights (`TokenBatch.token_weights`).
        sampled_logprobs: The sampler's.
        importance_cap: The largest importance weight; None: tokens are not weighed so.
    """
    if sampled_logprobs is None or importance_cap is None:
        return weights
    importance = importance_weights(logprobs, sampled_logprobs, importance_cap)
    return importance if weights is None else weights * importance


def importance_weights(
    logprobs: Float[Tensor, " n"], sampled_logprobs: Float[Tensor, " n"], cap: float
) -> Float[Tensor, " n"]:
    """Return how much likelier each token has become, at most ``cap``; one where the sampler is not known."""
    return (logprobs - sampled_logprobs).exp().clamp(max=cap).nan_to_num(nan=1.0)


def _differentiate(
    logits: Float[Tensor, "n V"], targets: _Targets
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """Return the targets' log-probabilities, and the gradient of their weighted sum by the logits."""
    grads = log_softmax(logits, targets.temperature)
    places = targets.tokens[:, None]
    logprobs = grads.gather(1, places)[:, 0]
    grads.exp_().neg_().scatter_add_(1, places, torch.ones_like(logprobs)[:, None])
    scales = targets.scales(logprobs)
    if scales is not None:
        grads *= scales[:, None]
    return logprobs, grads.to(logits.dtype)
