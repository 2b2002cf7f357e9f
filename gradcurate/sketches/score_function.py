"""The score function of rollouts: one forward and backward pass that hooks can listen to.

``g[p, i] = sum_t grad log pi(o_t | q, o_<t)``, with the log-probabilities at the temperature that
the rollouts were sampled with, as TRL and verl compute them. Rows of a batch do not interact, so
the gradient of the summed log-probability holds every rollout's own.

Of rollouts that an earlier policy sampled, each token's part can be weighed by how much likelier this
policy finds it, ``min(pi / pi_sampler, cap)``: truncated importance sampling, as trainers correct for stale
rollouts (verl ``rollout_is``, TRL ``vllm_importance_sampling_cap``).

The output layer runs only where a token is predicted, and over a chunk of those positions at a
time: whole logits would be most of the memory. Models that change their logits after the
output layer (a soft cap, a scale) compute them whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradcurate.sketches.discovery import probe_tokens
from gradcurate.sketches.token_batch import TokenBatch

LOGITS_PER_CHUNK = {"cpu": 2**24, "accelerator": 2**27}
"""64 MiB in float32 on a CPU: with less, a wide output layer is read too often (dev/LOG.md)."""


def logits_are_of_head(model: Any) -> bool:
    """Tell whether the logits are what the output layer returns, unchanged."""
    head, outputs = model.get_output_embeddings(), []
    if head is None:
        return False
    handle = head.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    with torch.no_grad():
        logits = model(input_ids=probe_tokens(model), use_cache=False).logits
    handle.remove()
    return len(outputs) == 1 and torch.equal(outputs[0], logits)


def backward_score_functions(
    model: Any, batch: TokenBatch, temperature: float, chunked: bool, importance_cap: float | None = None
) -> Float[Tensor, " N"]:
    """Run forward and backward; return the log-probability of each predicted token.

    Gradients reach whoever hooked the modules (`gradcurate.sketches.collector`).

    Args:
        model: Its weights frozen; something in it must ask for a gradient.
        batch: The rollouts.
        temperature: Divides the logits.
        chunked: The logits are those of the output layer (`logits_are_of_head`).
        importance_cap: The largest importance weight; None: tokens are not weighed so.
    """
    sampled = None if importance_cap is None else batch.sampled_logprobs
    targets = _Targets(batch.targets, batch.token_weights, sampled, importance_cap, temperature)
    inputs = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.position_ids is not None:
        inputs |= {"position_ids": batch.position_ids, "attention_mask": batch.attention}
    with torch.enable_grad():
        return (_by_chunks if chunked else _at_once)(model, inputs, batch, targets)


def _at_once(
    model: Any, inputs: dict[str, Any], batch: TokenBatch, targets: "_Targets"
) -> Float[Tensor, " N"]:
    positions, places = torch.unique(batch.columns, return_inverse=True)
    logits = model(**inputs, logits_to_keep=positions).logits[batch.rows, places]
    logprobs, grads = _differentiate(logits.detach(), targets)
    torch.autograd.backward(logits, grads)
    return logprobs


def _by_chunks(
    model: Any, inputs: dict[str, Any], batch: TokenBatch, targets: "_Targets"
) -> Float[Tensor, " N"]:
    head = model.get_output_embeddings()
    with _skipped(head) as hidden_states:
        model(**inputs)
    hidden = hidden_states[0][batch.rows, batch.columns]
    hidden_grads = torch.zeros_like(hidden)
    logprobs = torch.empty(len(hidden), device=hidden.device)
    chunk = max(1, LOGITS_PER_CHUNK["cpu" if hidden.is_cpu else "accelerator"] // head.weight.shape[0])
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
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


@contextmanager
def _skipped(head: Any) -> Iterator[list[Tensor]]:
    """Let the output layer run on one position only, and catch what it would have read."""
    caught: list[Tensor] = []

    def keep(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        caught.append(args[0])
        return (args[0][0, :1].detach(),)  # a matrix: with more dimensions, the weight would be copied

    handle = head.register_forward_pre_hook(keep)
    try:
        yield caught
    finally:
        handle.remove()


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
        if self.weights is None and self.sampled_logprobs is None and self.temperature == 1:
            return None
        scales = torch.ones_like(logprobs) if self.weights is None else self.weights
        if self.sampled_logprobs is not None and self.importance_cap is not None:
            scales = scales * importance_weights(logprobs, self.sampled_logprobs, self.importance_cap)
        return scales / self.temperature


def importance_weights(
    logprobs: Float[Tensor, " n"], sampled_logprobs: Float[Tensor, " n"], cap: float
) -> Float[Tensor, " n"]:
    """Return how much likelier each token has become, at most ``cap``; one where the sampler is not known."""
    return (logprobs - sampled_logprobs).exp().clamp(max=cap).nan_to_num(nan=1.0)


def _differentiate(
    logits: Float[Tensor, "n V"], targets: _Targets
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """Return the targets' log-probabilities, and the gradient of their weighted sum by the logits."""
    scaled = logits.float() if targets.temperature == 1 else logits.float() / targets.temperature
    grads = torch.log_softmax(scaled, dim=-1)
    places = targets.tokens[:, None]
    logprobs = grads.gather(1, places)[:, 0]
    grads.exp_().neg_().scatter_add_(1, places, torch.ones_like(logprobs)[:, None])
    scales = targets.scales(logprobs)
    if scales is not None:
        grads *= scales[:, None]
    return logprobs, grads.to(logits.dtype)
