"""How rollouts are laid out as rows of a batch."""

import pytest
import torch

from sketches.reference import as_batch, random_rollouts

ROLLOUTS = random_rollouts(6)


def test_each_completion_token_is_predicted_from_the_position_before_it():
    batch = as_batch(ROLLOUTS)
    assert batch.lengths == tuple(r.tokens - 1 for r in ROLLOUTS)
    assert batch.padded_tokens == len(ROLLOUTS) * max(batch.lengths)
    for row, rollout in enumerate(ROLLOUTS):
        length = batch.lengths[row]
        assert batch.input_ids[row, :length].tolist() == [*rollout.prompt, *rollout.completion][:-1]
        mine = batch.rows == row
        assert batch.targets[mine].tolist() == list(rollout.completion)
        first = len(rollout.prompt) - 1
        assert batch.columns[mine].tolist() == list(range(first, first + len(rollout.completion)))


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 6), (4, 5)])
def test_some_of_the_rows_are_the_batch_of_those_rollouts(start, stop):
    part, expected = as_batch(ROLLOUTS).slice(start, stop), as_batch(ROLLOUTS[start:stop])
    assert part.lengths == expected.lengths
    for name in ("input_ids", "rows", "columns", "targets"):
        assert torch.equal(getattr(part, name), getattr(expected, name))
