"""Whether a model's rollouts may share their prompt (``granularity="problem"``).

A group then passes as one row, in which completions do not see one another. A model must follow
the attention mask and the positions that say so; one with a recurrent state, or with a window
narrower than the row, does not. It is tried on a few tokens before the first batch.
"""

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
    prompt, completions = [1, 2, 3], [[4, 5, 6, 7], [7, 6, 5, 4], [2, 4, 6, 3]]
    together = pack_groups([prompt], [completions], [[1.0] * 3], model.device, model.dtype)
    apart = pad_rollouts([prompt] * 3, completions, model.device)
    difference = (_logprobs(model, together) - _logprobs(model, apart)).abs().max().item()
    if not difference < TOLERANCE.get(model.dtype, TOLERANCE[torch.float32]):
        raise PolicyError(
            "--granularity problem needs a model that follows an attention mask and positions",
            f"with a shared prompt, log-probabilities of {type(model).__name__} differ by {difference:.2g}",
            "Use --granularity rollout.",
        )


def require_window(model: Any, batch: TokenBatch) -> None:
    """Refuse a row that is longer than the model's attention window, which a given mask would switch off.

    Raises:
        PolicyError: There is one.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and max(batch.lengths) > window:
        raise PolicyError(
            f"With --granularity problem, a row must fit the attention window of {window} tokens",
            f"a problem and its rollouts have {max(batch.lengths)}",
            "Use --granularity rollout.",
        )


def _logprobs(model: Any, batch: TokenBatch) -> torch.Tensor:
    layout = {"position_ids": batch.position_ids, "attention_mask": batch.attention}
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, use_cache=False, **layout).logits
    chosen = logits[batch.rows, batch.columns].float().log_softmax(-1)
    logprobs: torch.Tensor = chosen.gather(1, batch.targets[:, None])[:, 0]
    return logprobs
