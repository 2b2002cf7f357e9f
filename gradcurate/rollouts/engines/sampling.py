"""Choosing one token per row from logits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sample_tokens(
    logits: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"], temperature: float, top_p: float
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Return a token for each row, by inverting its distribution at the row's uniform number.

    Returns:
        The tokens, and their log-probabilities at the temperature, before top-p.
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    allowed = _nucleus(probabilities, top_p) if top_p < 1 else probabilities
    cumulative = allowed.cumsum(-1)
    total = cumulative[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))  # at the total, no token would be left
    thresholds = torch.minimum(uniforms[:, None] * total, below_total)
    tokens = torch.searchsorted(cumulative, thresholds, right=True).clamp_(max=logits.shape[-1] - 1)
    return tokens[:, 0], probabilities.gather(1, tokens)[:, 0].log()


def _nucleus(probabilities: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    """Zero all but the fewest most likely tokens that together reach ``top_p``."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    mass_before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(mass_before >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter_(-1, order, kept)
