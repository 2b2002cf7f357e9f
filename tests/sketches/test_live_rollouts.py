"""Which rollouts the gradient pass is owed."""

import pyarrow as pa

from gradcurate.sketches.live_rollouts import (
    TOKEN_COLUMNS,
    LiveGroup,
    LiveRollout,
    live_groups,
    live_rollouts,
)

ROWS = [
    ("a", 0, "pool", [1, 2], [3], [-0.5]),
    ("a", 1, "pool", [1, 2], [4, 5], [-0.25, -4.0]),
    ("a", 0, "validation", [9], [9], [-1.0]),
    ("b", 0, "pool", [6], [7], None),
]
TABLE = pa.table(dict(zip(TOKEN_COLUMNS, zip(*ROWS, strict=True), strict=True)))


def test_live_rollouts_are_those_with_a_weight_in_their_split():
    live = live_rollouts(TABLE, "pool", {"a": {1: -0.5}, "absent": {0: 1.0}})
    assert [
        (r.identity, r.split, tuple(r.prompt), tuple(r.completion), r.weight, r.tokens) for r in live
    ] == [(("a", 1), "pool", (1, 2), (4, 5), -0.5, 4)]


def test_the_same_id_in_the_other_split_is_another_problem():
    weights = {"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0}}
    assert [(r.identity, r.weight) for r in live_rollouts(TABLE, "pool", weights)] == [
        (("a", 0), 1.0),
        (("a", 1), 2.0),
        (("b", 0), 3.0),
    ]
    assert [tuple(r.prompt) for r in live_rollouts(TABLE, "validation", weights)] == [(9,)]


def test_no_weights_no_live_rollouts():
    assert live_rollouts(TABLE, "pool", {}) == []


def test_the_sampler_s_logprobs_come_along_where_they_are_known():
    live = live_rollouts(TABLE, "pool", {"a": {1: 1.0}, "b": {0: 1.0}})
    assert [r.sampling_logprobs and list(r.sampling_logprobs) for r in live] == [[-0.25, -4.0], None]


def rollout(problem, number, completion, weight, logprobs=None):
    return LiveRollout(problem, number, "pool", (1, 2), completion, weight, logprobs)


def test_a_problem_s_rollouts_become_one_row():
    one, two, other = rollout("a", 0, (3,), 1.0), rollout("a", 1, (4, 5), -1.0), rollout("b", 0, (6,), 0.5)
    groups = live_groups([one, other, two])
    assert groups == [LiveGroup((one, two)), LiveGroup((other,))]
    first = groups[0]
    assert (first.identity, first.rollout, first.split, first.weight) == (("a",), None, "pool", 1.0)
    assert (first.tokens, first.response_tokens) == (2 + 1 + 2, 3)


def test_equal_completions_pass_once_and_vanish_where_they_cancel():
    same = [rollout("a", 0, (3,), 0.75), rollout("a", 1, (3,), -0.25), rollout("a", 2, (4,), -0.5)]
    (group,) = live_groups(same)
    assert [(r.completion, r.weight) for r in group.rollouts] == [((3,), 0.5), ((4,), -0.5)]
    assert live_groups([rollout("a", 0, (3,), 0.1 + 0.2), rollout("a", 1, (3,), -0.3)]) == []


def test_a_group_s_sampling_logprobs_are_known_if_all_are():
    known, unknown = rollout("a", 0, (3,), 1.0, [-1.0]), rollout("a", 1, (4, 5), -1.0)
    assert LiveGroup((known, rollout("a", 1, (4, 5), -1.0, [-2.0, -3.0]))).sampling_logprobs == [
        -1.0,
        -2.0,
        -3.0,
    ]
    assert LiveGroup((known, unknown)).sampling_logprobs is None
