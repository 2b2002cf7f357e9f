"""Which rollouts the gradient pass is owed."""

import pyarrow as pa

from gradcurate.sketches.live_rollouts import TOKEN_COLUMNS, live_rollouts

ROWS = [
    ("a", 0, "pool", [1, 2], [3]),
    ("a", 1, "pool", [1, 2], [4, 5]),
    ("a", 0, "validation", [9], [9]),
    ("b", 0, "pool", [6], [7]),
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
