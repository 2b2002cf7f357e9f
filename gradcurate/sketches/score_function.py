"""The score function of rollouts: one forward and backward pass that hooks can listen to.

``g[p, i] = sum_t grad log pi(o_t | q, o_<t)``, with the log-probabilities at the temperature that
the rollouts were sampled with, as TRL and verl compute them. Rows of a batch do not interact, so
the gradient of the summed log-probability holds every rollout's own.

The output layer runs only where a token is predicted, and over a chunk of those positions at a
time: whole logits would be most of the memory. Models that change their logits after the
output layer (a soft cap, a scale) compute them whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
    model: Any, batch: TokenBatch, temperature: float, chunked: bool
) -> Float[Tensor, " N"]:
    """Run forward and backward; return the log-probability of each predicted token.

    Gradients reach whoever hooked the modules (`gradcurate.sketches.collector`).

    Args:
        model: Its weights frozen; something in it must ask for a gradient.
        batch: The rollouts.
        temperature: Divides the logits.
        chunked: The logits are those of the output layer (`logits_are_of_head`).
    """
    inputs = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.position_ids is not None:
        inputs |= {"position_ids": batch.position_ids, "attention_mask": batch.attention}
    with torch.enable_grad():
        return (_by_chunks if chunked else _at_once)(model, inputs, batch, temperature)


def _at_once(
    model: Any, inputs: dict[str, Any], batch: TokenBatch, temperature: float
) -> Float[Tensor, " N"]:
    positions, places = torch.unique(batch.columns, return_inverse=True)
    logits = model(**inputs, logits_to_keep=positions).logits[batch.rows, places]
    logprobs, grads = _differentiate(logits.detach(), batch.targets, batch.token_weights, temperature)
    torch.autograd.backward(logits, grads)
    return logprobs


def _by_chunks(
    model: Any, inputs: dict[str, Any], batch: TokenBatch, temperature: float
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
        weights = None if batch.token_weights is None else batch.token_weights[part]
        logprobs[part], grads = _differentiate(logits.detach(), batch.targets[part], weights, temperature)
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


def _differentiate(
    logits: Float[Tensor, "n V"],
    targets: Int[Tensor, " n"],
    weights: Float[Tensor, " n"] | None,
    temperature: float,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """Return the targets' log-probabilities, and the gradient of their weighted sum by the logits."""
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    grads = torch.log_softmax(scaled, dim=-1)
    logprobs = grads.gather(1, targets[:, None])[:, 0]
    grads.exp_().neg_().scatter_add_(1, targets[:, None], torch.ones_like(logprobs)[:, None])
    if weights is not None or temperature != 1:
        scale = torch.ones_like(logprobs) if weights is None else weights
        grads *= (scale / temperature)[:, None]
    return logprobs, grads.to(logits.dtype)
