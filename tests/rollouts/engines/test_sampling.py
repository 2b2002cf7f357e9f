"""A token is chosen by inverting the row's distribution at its uniform number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.rollouts.engines.sampling import sample_tokens

GRID = 20_000
LARGEST_UNIFORM = 1 - 2**-24  # of float32 numbers in [0, 1)
LOGITS = torch.tensor([2.0, -1.0, 0.5, -3.0, 1.5, 0.0])


def on_a_grid(logits, temperature=1.0, top_p=1.0):
    """How often each token is chosen when the uniform numbers are spread evenly."""
    uniforms = (torch.arange(GRID) + 0.5) / GRID
    tokens, _ = sample_tokens(logits.expand(GRID, -1), uniforms, temperature, top_p)
    return torch.bincount(tokens, minlength=len(logits)) / GRID


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax_at_the_temperature(temperature):
    frequencies = on_a_grid(LOGITS, temperature)
    # An interval of the grid is off by less than one point at either end.
    assert (frequencies - (LOGITS / temperature).softmax(0)).abs().max() <= 2 / GRID
    assert (frequencies - (LOGITS / temperature / 1.05).softmax(0)).abs().max() > 2 / GRID


@pytest.mark.parametrize(
    ("top_p", "nucleus"), [(0.49, {0}), (0.5, {0, 4}), (0.79, {0, 4}), (0.9, {0, 2, 4}), (0.97, {0, 2, 4, 5})]
)
def test_top_p_keeps_the_fewest_likely_tokens_that_reach_it(top_p, nucleus):
    probabilities = LOGITS.softmax(0)  # .495 .025 .110 .003 .300 .067
    kept = torch.zeros(len(LOGITS), dtype=torch.bool)
    kept[list(nucleus)] = True
    assert probabilities[kept].sum() >= top_p > probabilities[kept].sum() - probabilities[kept].min()
    expected = probabilities * kept / probabilities[kept].sum()
    assert (on_a_grid(LOGITS, top_p=top_p) - expected).abs().max() <= 2 / GRID


def test_logprobs_are_those_before_top_p():
    uniforms = torch.tensor([0.1, 0.9])
    tokens, logprobs = sample_tokens(LOGITS.expand(2, -1), uniforms, 0.7, 0.9)
    expected = (LOGITS / 0.7).log_softmax(0)[tokens]
    assert torch.allclose(logprobs, expected, atol=1e-6)
    _, whole = sample_tokens(LOGITS.expand(2, -1), uniforms, 0.7, 1.0)
    assert torch.allclose(logprobs[0], whole[0])
    nucleus = (LOGITS / 0.7).softmax(0).sort(descending=True).values[:2].sum().log()
    assert (logprobs - (expected - nucleus)).abs().min() > 0.01


@settings(deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-7, 0.3, 1.0, 50.0]), min_size=1, max_size=40).filter(any),
    uniform=st.sampled_from([0.0, 2.0**-24, 0.5, LARGEST_UNIFORM]) | st.floats(0, LARGEST_UNIFORM, width=32),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
)
def test_a_token_of_no_probability_is_never_chosen(weights, uniform, top_p):
    logits = torch.tensor([weights]).log()
    tokens, logprobs = sample_tokens(logits, torch.tensor([uniform]), 1.0, top_p)
    assert weights[tokens[0]] > 0
    assert logprobs.isfinite().all()


@pytest.mark.parametrize("vocabulary", [3, 151_936])
def test_the_ends_of_the_unit_interval_choose_the_first_and_last_possible_token(vocabulary):
    logits = torch.zeros(2, vocabulary)
    logits[:, [0, -1]] = -torch.inf
    tokens, _ = sample_tokens(logits, torch.tensor([0.0, LARGEST_UNIFORM]), 1.0, 1.0)
    assert tokens.tolist() == [1, vocabulary - 2]


def test_rows_do_not_see_each_other():
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    uniforms = torch.tensor([0.3, 0.8])
    together = sample_tokens(logits, uniforms, 1.0, 0.95)[0]
    alone = [sample_tokens(logits[i : i + 1], uniforms[i : i + 1], 1.0, 0.95)[0] for i in range(2)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert together.tolist() != sample_tokens(logits, uniforms.flip(0), 1.0, 0.95)[0].tolist()
