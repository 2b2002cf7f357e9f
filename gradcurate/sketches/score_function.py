"""The score function of rollouts: one forward and backward pass that hooks can listen to.

``g[p, i] = sum_t grad log pi(o_t | q, o_<t)``, with the log-probabilities at the temperature that
the rollouts were sampled with, as TRL and verl compute them. Rows of a batch do not interact, so
the gradient of the summed log-probability holds every rollout's own.

Sequences are padded on the right and attention is causal: no real token ever sees padding, and the
loss ends before it, so a rollout's gradient does not depend on its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100


@dataclass(frozen=True)
class TokenBatch:
    """Rollouts as right-padded rows.

    Attributes:
        input_ids: Prompt and completion without its last token, which nothing follows.
        targets: The completion's tokens at the positions that predict them, else ``IGNORED``.
        lengths: Real input tokens of each row.
    """

    input_ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    lengths: tuple[int, ...]


def pad_rollouts(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> TokenBatch:
    """Lay out prompts and completions, given as token ids, as one right-padded batch."""
    lengths = tuple(len(p) + len(c) - 1 for p, c in zip(prompts, completions, strict=True))
    input_ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    targets = torch.full_like(input_ids, IGNORED)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        input_ids[row, : lengths[row]] = torch.tensor([*prompt, *completion])[:-1]
        targets[row, len(prompt) - 1 : lengths[row]] = torch.tensor(completion)
    return TokenBatch(input_ids.to(device), targets.to(device), lengths)


def backward_score_functions(model: Any, batch: TokenBatch, temperature: float) -> Float[Tensor, " B"]:
    """Run forward and backward; return each rollout's log-probability, summed over its tokens.

    Gradients reach whoever hooked the modules (`gradcurate.sketches.collector`).
    """
    predicting = (batch.targets != IGNORED).any(0).nonzero()[:, 0]
    with torch.enable_grad():
        logits = model(input_ids=batch.input_ids, use_cache=False, logits_to_keep=predicting).logits
        targets = batch.targets[:, predicting]
        surprisal = cross_entropy(
            (logits.float() / temperature).flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        logprobs = -surprisal.view_as(targets).sum(1)
        torch.autograd.backward(logprobs.sum())
    return logprobs.detach()
