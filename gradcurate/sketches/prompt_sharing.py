"""Whether a model's rollouts may share their prompt (``granularity="problem"``).

Completions of a group then pass in one row, and do not see one another. A model must follow the
attention mask and the positions that say so; one with a recurrent state does not. It is tried on
a few tokens before the first batch.
"""

import inspect
from typing import Any

import torch

from gradcurate.errors import PolicyError
from gradcurate.sketches.token_batch import TokenBatch, pack_groups, pad_rollouts

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Of log-probabilities: rounding is far below, and a completion that sees another far above."""


def require_prompt_sharing(model: Any) -> None:
    """Refuse a model that answers differently when prompts are shared.

    Raises:
        PolicyError: It does.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise _refusal(f"{type(model).__name__} takes no position_ids")
    prompt, completions = [1, 2, 3], [[4, 5, 6, 7], [7, 6, 5, 4], [2, 4, 6, 3]]
    together = pack_groups([prompt], [completions], [[1.0] * 3], model.device, model.dtype)
    apart = pad_rollouts([prompt] * 3, completions, model.device)
    difference = (_logprobs(model, together) - _logprobs(model, apart)).abs().max().item()
    if not difference < TOLERANCE.get(model.dtype, TOLERANCE[torch.float32]):
        raise _refusal(
            f"with a shared prompt, log-probabilities of {type(model).__name__} differ by {difference:.2g}"
        )


def _refusal(found: str) -> PolicyError:
    return PolicyError(
        "--granularity problem needs a model that follows an attention mask and positions",
        found,
        "Use --granularity rollout.",
    )


def _logprobs(model: Any, batch: TokenBatch) -> torch.Tensor:
    layout = {"position_ids": batch.position_ids, "attention_mask": batch.attention}
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, use_cache=False, **layout).logits
    chosen = logits[batch.rows, batch.columns].float().log_softmax(-1)
    logprobs: torch.Tensor = chosen.gather(1, batch.targets[:, None])[:, 0]
    return logprobs
