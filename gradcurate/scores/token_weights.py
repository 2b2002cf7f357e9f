"""Token weights: what one token of a response counts, as the trainer's loss aggregates.

- ``response-mean``: 1 / length (verl ``seq-mean-token-mean``; TRL ``loss_type="grpo"``)
- ``token-sum``: 1 (verl ``token-mean``, TRL ``dapo``: a constant over the whole batch, which no cosine sees)
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

TokenWeightName = Literal["response-mean", "token-sum"]


def response_mean(response_tokens: Int[np.ndarray, "*groups G"]) -> Float[np.ndarray, "*groups G"]:
    """Return 1 / length of each response."""
    return 1.0 / response_tokens


def token_sum(response_tokens: Int[np.ndarray, "*groups G"]) -> Float[np.ndarray, "*groups G"]:
    """Return 1 for each response."""
    return np.ones(response_tokens.shape)


TOKEN_WEIGHTS: dict[
    TokenWeightName, Callable[[Int[np.ndarray, "*groups G"]], Float[np.ndarray, "*groups G"]]
] = {
    "response-mean": response_mean,
    "token-sum": token_sum,
}
