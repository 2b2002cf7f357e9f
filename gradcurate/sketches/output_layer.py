"""The output layer, run only where a token is predicted, and over a chunk of those positions at a time.

Whole logits would be most of the memory. Models that change their logits after the output layer (a
soft cap, a scale) compute them whole at those positions.
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


def token_logprobs(model: Any, batch: TokenBatch, temperature: float, chunked: bool) -> Float[Tensor, " N"]:
    """Return the log-probability of each predicted token, by a forward pass that keeps no activations.

    Args:
        model: The model.
        batch: The rollouts.
        temperature: Divides the logits.
        chunked: The logits are those of the output layer (`logits_are_of_head`).
    """
    with torch.no_grad():
        if not chunked:
            return _of_targets(predicting_logits(model, batch), batch.targets, temperature)
        head, hidden = model.get_output_embeddings(), predicting_states(model, batch)
        parts = chunks(hidden, head)
        return torch.cat([_of_targets(head(hidden[p]), batch.targets[p], temperature) for p in parts])


def log_softmax(logits: Float[Tensor, "n V"], temperature: float) -> Float[Tensor, "n V"]:
    """Return log-probabilities at a temperature, in float32 or better."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(wide if temperature == 1 else wide / temperature, dim=-1)


def predicting_logits(model: Any, batch: TokenBatch) -> Float[Tensor, "N V"]:
    """Run the model; return the logits of each predicted token."""
    positions, places = torch.unique(batch.columns, return_inverse=True)
    logits: Tensor = model(**_inputs(batch), logits_to_keep=positions).logits[batch.rows, places]
    return logits


def predicting_states(model: Any, batch: TokenBatch) -> Float[Tensor, "N H"]:
    """Run the model up to the output layer; return what that would read for each predicted token."""
    with _skipped(model.get_output_embeddings()) as hidden_states:
        model(**_inputs(batch))
    return hidden_states[0][batch.rows, batch.columns]


def chunks(hidden: Float[Tensor, "N H"], head: Any) -> Iterator[slice]:
    """Cut the predicted tokens into chunks whose logits are few enough to be held."""
    size = max(1, LOGITS_PER_CHUNK["cpu" if hidden.is_cpu else "accelerator"] // head.weight.shape[0])
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _inputs(batch: TokenBatch) -> dict[str, Any]:
    inputs = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.position_ids is None:
        return inputs
    return inputs | {"position_ids": batch.position_ids, "attention_mask": batch.attention}


def _of_targets(
    logits: Float[Tensor, "n V"], targets: Int[Tensor, " n"], temperature: float
) -> Float[Tensor, " n"]:
    return log_softmax(logits, temperature).gather(1, targets[:, None])[:, 0]


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
