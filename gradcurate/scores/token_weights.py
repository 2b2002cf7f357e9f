"""Token weights: what one token of a response counts, as the trainer's loss aggregates.

- ``response-mean``: 1 / length (verl ``seq-mean-token-mean``; TRL ``loss_type="grpo"``)
- ``token-sum``: 1 (verl ``token-mean``, TRL ``dapo``: a constant over the whole batch, which no cosine sees)
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

TokenWeightName = Literal["response-mean", "token-sum"]


def response_mean(response_tokens_G: Int[np.ndarray, " G"]) -> Float[np.ndarray, " G"]:
    """Return 1 / length of each response."""
    return 1.0 / response_tokens_G


def token_sum(response_tokens_G: Int[np.ndarray, " G"]) -> Float[np.ndarray, " G"]:
    """Return 1 for each response."""
    return np.ones(len(response_tokens_G))


TOKEN_WEIGHTS: dict[TokenWeightName, Callable[[Int[np.ndarray, " G"]], Float[np.ndarray, " G"]]] = {
    "response-mean": response_mean,
    "token-sum": token_sum,
}
