"""How rollouts are laid out as rows of a batch."""

from gradcurate.sketches.score_function import IGNORED
from sketches.reference import as_batch, random_rollouts


def test_each_completion_token_is_predicted_from_the_position_before_it():
    rollouts = random_rollouts(6)
    batch = as_batch(rollouts)
    assert batch.lengths == tuple(r.tokens - 1 for r in rollouts)
    assert batch.input_ids.shape[1] == max(batch.lengths)
    for row, rollout in enumerate(rollouts):
        length = batch.lengths[row]
        assert batch.input_ids[row, :length].tolist() == [*rollout.prompt, *rollout.completion][:-1]
        predicted = batch.targets[row] != IGNORED
        assert batch.targets[row, predicted].tolist() == list(rollout.completion)
        first = len(rollout.prompt) - 1
        assert predicted.nonzero()[:, 0].tolist() == list(range(first, first + len(rollout.completion)))
