"""From live rows to one sketch each: laid out as tokens, sketched, and added up again.

A rollout is a row of tokens. A group's completions share rows with their prompt, as many in a row
as pay: each further one saves the prompt once more, and lengthens the row, over whose whole length
attention runs. What the parts of a group leave is added up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradcurate.sketches.direction import Direction
from gradcurate.sketches.forward import Differences, difference_batch
from gradcurate.sketches.live_rollouts import LiveGroup, LiveRollout, LiveRow
from gradcurate.sketches.sketcher import BatchGradients, Sketcher, sketch_batch
from gradcurate.sketches.token_batch import TokenBatch, pack_groups, pad_rollouts

TOKENS_PER_FEATURE = 1.5
"""With a row of as many tokens as this times the hidden size, attention takes half of the time.

Measured: 1.45 and 2.3 (dev/LOG.md).
"""


@dataclass(frozen=True)
class Layout:
    """Live rows as tokens.

    Attributes:
        tokens: One row or several for each live row.
        owners: Which live row each of them is of, in ascending order.
    """

    tokens: TokenBatch
    owners: tuple[int, ...]


def sketch_rows(
    sketcher: Sketcher,
    rows: Sequence[LiveRow],
    *,
    along: Direction | None = None,
    onto: Direction | None = None,
) -> BatchGradients:
    """Sketch live rows, all of one kind.

    Args:
        sketcher: Model and projection.
        rows: Rollouts, or groups.
        along: A direction v whose ``<g, v>`` is wanted for each row.
        onto: A direction to which the rows' gradients are added in place, by their weights.
    """
    layout = lay_out(rows, sketcher.model)
    weights = torch.tensor([rows[owner].weight for owner in layout.owners], device=sketcher.model.device)
    found = sketch_batch(sketcher, layout.tokens, along=along, onto=onto, weights=weights.float())
    return _added_up(found, layout.owners, len(rows))


def difference_rows(differences: Differences, rows: Sequence[LiveRow]) -> BatchGradients:
    """Return the derivatives of live rows, all of one kind, by forward passes alone."""
    layout = lay_out(rows, differences.twins.ahead)
    return _added_up(difference_batch(differences, layout.tokens), layout.owners, len(rows))


def lay_out(rows: Sequence[LiveRow], model: Any) -> Layout:
    """Return the tokens of live rows, all of one kind."""
    rollouts = [row for row in rows if isinstance(row, LiveRollout)]
    if rollouts:
        prompts, completions = [r.prompt for r in rollouts], [r.completion for r in rollouts]
        sampled = [r.sampling_logprobs for r in rollouts]
        tokens = pad_rollouts(prompts, completions, model.device, sampled_logprobs=sampled)
        return Layout(tokens, tuple(range(len(rows))))
    return _lay_out_groups([row for row in rows if isinstance(row, LiveGroup)], model)


def _lay_out_groups(groups: Sequence[LiveGroup], model: Any) -> Layout:
    config = model.config.get_text_config()
    together = completions_together(
        max(len(r.prompt) for group in groups for r in group.rollouts),
        max(len(r.completion) for group in groups for r in group.rollouts),
        config.hidden_size,
        getattr(config, "sliding_window", None),
    )
    owned = [(owner, part) for owner, group in enumerate(groups) for part in _parts(group, together)]
    parts = [part for _, part in owned]
    prompts = [part[0].prompt for part in parts]
    completions = [[r.completion for r in part] for part in parts]
    weights = [[r.weight for r in part] for part in parts]
    sampled = [r.sampling_logprobs for part in parts for r in part]
    if together == 1:
        alone, ones = [c for (c,) in completions], [w for (w,) in weights]
        tokens = pad_rollouts(prompts, alone, model.device, ones, sampled)
    else:
        tokens = pack_groups(prompts, completions, weights, model.device, model.dtype, sampled)
    return Layout(tokens, tuple(owner for owner, _ in owned))


def completions_together(prompt: int, completion: int, hidden_size: int, window: int | None) -> int:
    """Return how many completions make a row with their prompt.

    A row of m completions has ``P + m C`` tokens, each of which costs ``1 + (P + m C) / A``, with
    ``A = TOKENS_PER_FEATURE * hidden_size``. The m that costs least a completion is
    ``(P / C) sqrt(1 + A / P)``.

    Args:
        prompt: Tokens P.
        completion: Tokens C.
        hidden_size: Of the model.
        window: Its attention window, which a row must fit: a given attention mask switches it off.
    """
    best = prompt / completion * math.sqrt(1 + TOKENS_PER_FEATURE * hidden_size / prompt)
    fitting = (window - prompt) // completion if window else round(best)
    return max(1, min(round(best), fitting))


def _parts(group: LiveGroup, together: int) -> list[tuple[LiveRollout, ...]]:
    """Cut a group into parts of almost equal size."""
    size = math.ceil(len(group.rollouts) / math.ceil(len(group.rollouts) / together))
    return [group.rollouts[start : start + size] for start in range(0, len(group.rollouts), size)]


def _added_up(found: BatchGradients, owners: Sequence[int], rows: int) -> BatchGradients:
    places = torch.tensor(owners, device=found.logprobs.device)

    def sums(parts: Tensor) -> Tensor:
        return parts.new_zeros(rows, *parts.shape[1:]).index_add_(0, places, parts)

    return BatchGradients(
        token_logprobs=found.token_logprobs,
        logprobs=sums(found.logprobs),
        sketches=None if found.sketches is None else sums(found.sketches),
        directional=None if found.directional is None else sums(found.directional),
    )
