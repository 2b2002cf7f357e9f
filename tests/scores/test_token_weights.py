"""What one token of a response counts, as the trainer's loss aggregates."""

import numpy as np

from gradcurate.scores.token_weights import TOKEN_WEIGHTS

LENGTHS = np.array([1, 4, 10])


def test_response_mean_gives_every_response_the_same_total():
    weights = TOKEN_WEIGHTS["response-mean"](LENGTHS)
    assert weights.tolist() == [1.0, 0.25, 0.1]
    assert (weights * LENGTHS).tolist() == [1.0, 1.0, 1.0]


def test_token_sum_gives_every_token_the_same():
    assert TOKEN_WEIGHTS["token-sum"](LENGTHS).tolist() == [1.0, 1.0, 1.0]


def test_these_are_all_presets():
    assert set(TOKEN_WEIGHTS) == {"response-mean", "token-sum"}
