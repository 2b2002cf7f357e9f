"""Rollouts laid out as right-padded rows, with the places that predict their tokens.

A row is one rollout, or a prompt followed by several of its completions, which do not see one
another (`pack_groups`). Padding on the right is never seen, so a row does not depend on its batch.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Completions = Sequence[Sequence[int]]


@dataclass(frozen=True)
class TokenBatch:
    """A batch of B rows that predict N tokens.

    Attributes:
        input_ids: The rows' tokens; the last one of a completion is left out, for nothing follows it.
        lengths: Real tokens of each row.
        rows: Which row predicts each of the N tokens, in ascending order.
        columns: At which position.
        targets: The tokens.
        token_weights: What each log-probability counts; None: one.
        sampled_logprobs: Of the targets, by whoever sampled them; NaN where that is not known.
        position_ids: Positions, where they are not simply counted.
        attention: What is added to attention scores, where it is not simply causal.
    """

    input_ids: Int[Tensor, "B T"]
    lengths: tuple[int, ...]
    rows: Int[Tensor, " N"]
    columns: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
    token_weights: Float[Tensor, " N"] | None = None
    sampled_logprobs: Float[Tensor, " N"] | None = None
    position_ids: Int[Tensor, "B T"] | None = None
    attention: Float[Tensor, "B 1 T T"] | None = None

    @property
    def padded_tokens(self) -> int:
        """Return what the batch costs: rows times the longest."""
        return self.input_ids.numel()

    def slice(self, start: int, stop: int) -> "TokenBatch":
        """Return the batch of some of the rows."""
        longest = max(self.lengths[start:stop])
        first, last = torch.searchsorted(
            self.rows, torch.tensor([start, stop], device=self.rows.device)
        ).tolist()
        chosen, mask = slice(first, last), self.attention
        return replace(
            self,
            input_ids=self.input_ids[start:stop, :longest],
            lengths=self.lengths[start:stop],
            rows=self.rows[chosen] - start,
            columns=self.columns[chosen],
            targets=self.targets[chosen],
            token_weights=None if self.token_weights is None else self.token_weights[chosen],
            sampled_logprobs=None if self.sampled_logprobs is None else self.sampled_logprobs[chosen],
            position_ids=None if self.position_ids is None else self.position_ids[start:stop, :longest],
            attention=None if mask is None else mask[start:stop, :, :longest, :longest],
        )


def pad_rollouts(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    device: torch.device,
    weights: Sequence[float] | None = None,
    sampled_logprobs: Sequence[Sequence[float] | None] = (),
) -> TokenBatch:
    """Lay out one rollout a row.

    Args:
        prompts: Of each row.
        completions: Of each row.
        device: Where the batch goes.
        weights: What each log-probability counts; None: one.
        sampled_logprobs: The sampler's own, of each completion.
    """
    rows = [([*p, *c[:-1]], len(p) - 1, c) for p, c in zip(prompts, completions, strict=True)]
    return TokenBatch(
        input_ids=_padded([tokens for tokens, _, _ in rows]).to(device),
        lengths=tuple(len(tokens) for tokens, _, _ in rows),
        rows=_flat([[row] * len(c) for row, (_, _, c) in enumerate(rows)]).to(device),
        columns=_flat([range(start, start + len(c)) for _, start, c in rows]).to(device),
        targets=_flat([c for _, _, c in rows]).to(device),
        token_weights=None if weights is None else _token_weights(weights, completions).to(device),
        sampled_logprobs=_known(sampled_logprobs, completions, device),
    )


def pack_groups(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completions],
    weights: Sequence[Sequence[float]],
    device: torch.device,
    dtype: torch.dtype,
    sampled_logprobs: Sequence[Sequence[float] | None] = (),
) -> TokenBatch:
    """Lay out each prompt once, with all of its completions behind it.

    Every completion continues the prompt: its positions are counted from there, and it attends to
    the prompt and itself. The prompt's last position predicts all of their first tokens.

    Args:
        prompts: Of each row.
        completions: Of each row, several.
        weights: What the log-probability of each completion counts.
        device: Where the batch goes.
        dtype: Of the attention mask: the model's own.
        sampled_logprobs: The sampler's own, of each completion of each row.
    """
    rows = [
        _Packed(list(p), [list(c) for c in several]) for p, several in zip(prompts, completions, strict=True)
    ]
    segments = _padded([row.segments for row in rows], padding=-1)
    return TokenBatch(
        input_ids=_padded([row.tokens for row in rows]).to(device),
        lengths=tuple(len(row.tokens) for row in rows),
        rows=_flat([[number] * len(row.columns) for number, row in enumerate(rows)]).to(device),
        columns=_flat([row.columns for row in rows]).to(device),
        targets=_flat([[t for c in row.completions for t in c] for row in rows]).to(device),
        token_weights=_token_weights(
            [weight for row in weights for weight in row], [c for row in completions for c in row]
        ).to(device),
        sampled_logprobs=_known(sampled_logprobs, [c for row in completions for c in row], device),
        position_ids=_padded([row.positions for row in rows]).to(device),
        attention=_attention(segments, dtype).to(device),
    )


@dataclass(frozen=True)
class _Packed:
    """A prompt and its completions as one row, but for the last token of each."""

    prompt: list[int]
    completions: list[list[int]]

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *(token for c in self.completions for token in c[:-1])]

    @property
    def segments(self) -> list[int]:
        """Which part a position is of: 0 the prompt, then each completion."""
        ends = [number for number, c in enumerate(self.completions, start=1) for _ in c[:-1]]
        return [0] * len(self.prompt) + ends

    @property
    def positions(self) -> list[int]:
        first = len(self.prompt)
        return [*range(first), *(first + place for c in self.completions for place in range(len(c) - 1))]

    @property
    def columns(self) -> list[int]:
        """The positions that predict the completions' tokens."""
        starts = itertools.accumulate((len(c) - 1 for c in self.completions), initial=len(self.prompt))
        return [
            column
            for start, c in zip(starts, self.completions, strict=False)
            for column in [len(self.prompt) - 1, *range(start, start + len(c) - 1)]
        ]


def _attention(segments: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """Return zero where a position may look, and the lowest number elsewhere."""
    query, key = segments[:, :, None], segments[:, None, :]
    seen = ((key == 0) | (key == query)).tril()
    return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]


def _token_weights(weights: Sequence[float], completions: Sequence[Sequence[int]]) -> Float[Tensor, " N"]:
    lengths = torch.tensor([len(c) for c in completions])
    return torch.tensor(weights, dtype=torch.float32).repeat_interleave(lengths)


def _known(
    logprobs: Sequence[Sequence[float] | None], completions: Completions, device: torch.device
) -> Float[Tensor, " N"] | None:
    """Return the log-probabilities of all tokens, NaN where they are not known; None if none are."""
    if all(known is None for known in logprobs):
        return None
    pairs = zip(logprobs, completions, strict=True)
    flat = [number for known, c in pairs for number in ([math.nan] * len(c) if known is None else known)]
    return torch.tensor(flat, dtype=torch.float32, device=device)


def _padded(rows: Sequence[Sequence[int]], padding: int = 0) -> Int[Tensor, "B T"]:
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)


def _flat(parts: Sequence[Sequence[int]]) -> Int[Tensor, " N"]:
    return torch.tensor([number for part in parts for number in part], dtype=torch.long)
