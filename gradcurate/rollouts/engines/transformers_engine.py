"""Sampling with the checkpoint itself, through transformers.

A batch is a fixed set of problems. Their prompts run once, padded on the left; the cache is then
repeated for the G rollouts of each, and rows leave the batch when they have ended. `generate` is
not used: it cannot draw each row from a random stream of its own, runs a prompt G times, and keeps
finished rows to the end.
"""

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradcurate.config import Settings
from gradcurate.errors import NumericalError
from gradcurate.policies.policy import Policy
from gradcurate.rollouts.batches import Batch
from gradcurate.rollouts.engines.engine import Engine
from gradcurate.rollouts.engines.randomness import rollout_uniforms
from gradcurate.rollouts.engines.sampling import sample_tokens
from gradcurate.rollouts.rollout import Completion

LIVE_SHARE_TO_COMPACT = 0.9  # dropping rows copies the cache, so it waits until a tenth has ended


@final
class TransformersEngine(Engine):
    """The policy itself, in this process: one batch after the other, each the same whenever it is sampled.

    Args:
        policy: Loads the policy when it is first called, and returns the same one after.
        settings: How to sample.
    """

    def __init__(self, policy: Callable[[], Policy], settings: Settings) -> None:
        self._policy, self._settings = policy, settings

    def sample(self, batches: Sequence[Batch]) -> Generator[tuple[Batch, list[Completion]], None, None]:
        """Yield the batches in their order."""
        settings = self._settings
        for batch in batches:
            prompts = [problem.prompt_token_ids for problem in batch]
            uniforms = _uniforms(batch, settings)
            yield (
                batch,
                sample_completions(self._policy(), prompts, uniforms, settings.temperature, settings.top_p),
            )


def _uniforms(batch: Batch, settings: Settings) -> Float[np.ndarray, "B G T"]:
    rows = [
        [
            rollout_uniforms(settings.seed, p.problem_id, rollout, settings.max_tokens)
            for rollout in range(settings.rollouts)
        ]
        for p in batch
    ]
    return np.array(rows)


@final
class _Rows:
    """The rows of a batch that are still in the cache, and what each has produced."""

    def __init__(self, count: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.logprobs: list[list[float]] = [[] for _ in range(count)]
        self.ended = np.zeros(count, dtype=bool)
        self.cached = np.arange(count)

    def append(self, tokens: Tensor, logprobs: Tensor, stop_token_ids: frozenset[int]) -> None:
        chosen = zip(self.cached.tolist(), tokens.tolist(), logprobs.tolist(), strict=True)
        for row, token, logprob in chosen:
            if not self.ended[row]:
                _require_number(logprob)
                self.tokens[row].append(token)
                self.logprobs[row].append(logprob)
                self.ended[row] = token in stop_token_ids

    def completions(self) -> list[Completion]:
        return [
            Completion(tuple(tokens), tuple(logprobs), "stop" if ended else "length")
            for tokens, logprobs, ended in zip(self.tokens, self.logprobs, self.ended, strict=True)
        ]


def _require_number(logprob: float) -> None:
    if math.isnan(logprob):
        raise NumericalError(
            "Every sampled token must have a log-probability",
            "the policy's logits are NaN",
            "Look for NaN in the checkpoint's weights; bfloat16 overflows where float32 does not.",
        )


@torch.inference_mode()
def sample_completions(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[np.ndarray, "B G T"],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[Completion]:
    """Sample G completions of at most T tokens for each prompt.

    Args:
        policy: What samples.
        prompts: Token ids of each problem's prompt.
        uniforms: The random numbers that choose the tokens, for each problem and rollout.
        temperature: Divides the logits.
        top_p: Nucleus sampling; 1 samples from the whole distribution.

    Returns:
        The completions, a problem's G rollouts next to each other.

    Raises:
        NumericalError: The policy's logits are NaN.
    """
    group, max_tokens = uniforms.shape[1:]
    device = policy.model.device
    draws = torch.from_numpy(uniforms.reshape(-1, max_tokens)).to(device)
    logits, cache, mask = _read_prompts(policy.model, prompts, group)
    rows = _Rows(len(prompts) * group)
    for step in range(max_tokens):
        tokens, logprobs = sample_tokens(logits, draws[rows.cached, step], temperature, top_p)
        rows.append(tokens, logprobs, policy.stop_token_ids)
        if rows.ended.all() or step == max_tokens - 1:
            break
        tokens, mask = _compact(rows, cache, tokens, mask)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        logits = policy.model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return rows.completions()


def _read_prompts(
    model: Any, prompts: Sequence[Sequence[int]], group: int
) -> tuple[Float[Tensor, "rows V"], Any, Int[Tensor, "rows T"]]:
    """Run each prompt once; return next-token logits, cache and mask, repeated for the group."""
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    mask = mask.to(model.device)
    output = model(
        input_ids=input_ids.to(model.device),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    output.past_key_values.batch_repeat_interleave(group)
    logits = output.logits[:, -1].repeat_interleave(group, 0)
    return logits, output.past_key_values, mask.repeat_interleave(group, 0)


def _compact(
    rows: _Rows, cache: Any, tokens: Int[Tensor, " B"], mask: Int[Tensor, "B T"]
) -> tuple[Int[Tensor, " live"], Int[Tensor, "live T"]]:
    """Drop ended rows from the cache once there are enough of them."""
    live = ~rows.ended[rows.cached]
    if live.mean() > LIVE_SHARE_TO_COMPACT:
        return tokens, mask
    kept = torch.from_numpy(live.nonzero()[0]).to(tokens.device)
    cache.batch_select_indices(kept)
    rows.cached = rows.cached[live]
    return tokens[kept], mask[kept]
