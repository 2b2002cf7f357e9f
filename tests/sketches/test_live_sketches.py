"""A problem's rollouts as one row, however many of them share a prompt."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradcurate.sketches.direction import norm, zero_direction
from gradcurate.sketches.live_rollouts import LiveRollout, live_groups
from gradcurate.sketches.live_sketches import TOKENS_PER_FEATURE, completions_together, lay_out, sketch_rows
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher
from sketches.architectures import tiny_model
from sketches.reference import relative_error

HIDDEN_SIZE = 16
TOLERANCE = 1e-5
CASES = {"apart": (1, 9, 10), "in twos": (5, 6, 6), "three and two": (9, 4, 4), "all": (20, 2, 2)}


def rollouts_of(prompt_tokens, completion_tokens, problems=2, group=5):
    generator = torch.Generator().manual_seed(prompt_tokens)

    def tokens(count):
        return tuple(torch.randint(2, 101, (count,), generator=generator).tolist())

    return [
        LiveRollout(f"p{problem}", number, "pool", prompt, tokens(completion_tokens), 0.5 - number)
        for problem in range(problems)
        for prompt in [tokens(prompt_tokens)]
        for number in range(group)
    ]


@pytest.mark.parametrize(("prompt", "completion", "rows"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("model", ["Llama", "Mistral"])
def test_a_group_is_the_weighted_sum_of_its_rollouts(model, prompt, completion, rows):
    """Mistral's window is narrower than its longest row would be."""
    window = {"sliding_window": 12} if model == "Mistral" else {}
    sketcher = build_sketcher(tiny_model(model, **window), Projection(256))
    rollouts = rollouts_of(prompt, completion)
    groups, weights = live_groups(rollouts), torch.tensor([r.weight for r in rollouts])
    if model == "Llama":
        assert len(lay_out(groups, sketcher.model).owners) == rows
    ours, theirs = (zero_direction(sketcher.space, torch.device("cpu")) for _ in range(2))
    apart = sketch_rows(sketcher, rollouts, onto=theirs)
    along = {name: matrix.clone() for name, matrix in theirs.items()}
    apart = sketch_rows(sketcher, rollouts, along=along)
    sketch_rows(sketcher, groups, onto=ours)
    together = sketch_rows(sketcher, groups, along=along)
    expected = (weights[:, None] * apart.sketches).view(2, 5, -1).sum(1)
    assert relative_error(together.sketches, expected) < TOLERANCE
    assert relative_error(together.sketches, expected.flip(0)) > 0.1
    assert together.directional.tolist() == pytest.approx(
        (weights * apart.directional).view(2, 5).sum(1).tolist(), rel=1e-4
    )
    assert relative_error(together.token_logprobs, apart.token_logprobs) < TOLERANCE
    assert norm({name: ours[name] - theirs[name] for name in ours}) < TOLERANCE * norm(theirs)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(16, 8192))
def test_no_other_number_of_completions_costs_much_less(prompt, completion, hidden_size):
    def cost(together):
        tokens = prompt + together * completion
        return tokens * (1 + tokens / (TOKENS_PER_FEATURE * hidden_size)) / together

    chosen = completions_together(prompt, completion, hidden_size, None)
    assert cost(chosen) <= 1.25 * min(cost(chosen + 1), cost(max(1, chosen - 1)))
    assert cost(chosen) <= cost(1)


def test_a_row_fits_the_attention_window():
    assert completions_together(100, 10, 64, None) == 14
    assert completions_together(100, 10, 64, 140) == 4
    assert completions_together(100, 10, 64, 90) == 1  # the model's own mask sees to it
