"""What the rewards of a problem's rollouts say, before any gradient."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.scores.groups import GROUP_COLUMNS, Group, group_rollouts

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("rollout", pa.int32()),
        ("reward", pa.float64()),
        ("completion_token_ids", pa.list_(pa.int32())),
    ]
)


def as_table(rows):
    """Rows of (problem, split, rollout, reward, response tokens)."""
    columns = list(zip(*[(*row[:4], [7] * row[4]) for row in rows], strict=True)) or [()] * 5
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def group_of(rewards):
    (group,) = group_rollouts(as_table([("a", "pool", i, reward, i + 1) for i, reward in enumerate(rewards)]))
    return group


def contents(group):
    arrays = (group.rollouts_G, group.rewards_G, group.response_tokens_G)
    return (group.problem_id, group.split, group.failed, *(array.tolist() for array in arrays))


@pytest.mark.parametrize(
    ("rewards", "status"),
    [
        ([1.0, 0.0], "scored"),
        ([0.2, 0.2, 0.2 + 1e-5], "scored"),
        ([1.0, 0.0, None], "scored"),
        ([-1.0, 1.0], "scored"),
        ([1.0, 1.0], "all_correct"),
        ([2.0, 2.0], "all_correct"),
        ([1.0, 1.0 + 1e-7], "all_correct"),
        ([1.0, 1.0, None], "all_correct"),
        ([0.0, 0.0], "all_wrong"),
        ([-0.5, -0.5], "all_wrong"),
        ([0.5, 0.5], "constant_reward"),
        ([1.0 - 1e-3, 1.0 - 1e-3], "constant_reward"),
        ([0.1 + 0.2, 0.3], "constant_reward"),
        ([None, None], "failed"),
        ([1.0, None], "failed"),
        ([1.0], "failed"),
    ],
)
def test_status(rewards, status):
    assert group_of(rewards).status == status


def test_rollouts_without_a_reward_are_counted_and_no_members():
    group = group_of([1.0, None, 0.0, None])
    assert contents(group) == ("a", "pool", 2, [0, 2], [1.0, 0.0], [1, 3])
    # A failed rollout read as a wrong answer would give other weights.
    weights = group.weights("dr_grpo", "token-sum").tolist()
    assert weights == [0.5, -0.5]
    assert group_of([1.0, 0.0, 0.0, 0.0]).weights("dr_grpo", "token-sum").tolist() != weights


@pytest.mark.parametrize(
    ("rewards", "rate"), [([1.0, 0.0], 0.5), ([0.5, 0.49, 2.0], 2 / 3), ([1.0, None], 1.0), ([None], None)]
)
def test_pass_rate(rewards, rate):
    assert group_of(rewards).pass_rate == rate


def test_weights_are_advantage_times_token_weight():
    group = Group("a", "pool", np.arange(3), np.array([1.0, 0.0, 0.0]), np.array([2, 4, 8]), failed=0)
    assert group.weights("dr_grpo", "token-sum") == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert group.weights("dr_grpo", "response-mean") == pytest.approx([1 / 3, -1 / 12, -1 / 24])
    assert group.weights("rloo", "response-mean") == pytest.approx([1 / 2, -1 / 8, -1 / 16])


# One reward per (problem, split, rollout), in every order of rows.
rewards_by_key = st.dictionaries(
    st.tuples(
        st.sampled_from(["a", "b", "c/1", "é"]), st.sampled_from(["pool", "validation"]), st.integers(0, 5)
    ),
    st.tuples(st.none() | st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 9)),
    max_size=16,
)


@settings(deadline=None)
@given(rewards_by_key, st.randoms())
def test_the_order_of_rows_plays_no_part(by_key, random):
    rows = [(*key, *value) for key, value in by_key.items()]
    groups = group_rollouts(as_table(rows))
    assert [(g.split, g.problem_id) for g in groups] == sorted({(split, name) for name, split, _ in by_key})
    for group in groups:
        mine = sorted(
            (r, *v)
            for (name, split, r), v in by_key.items()
            if (name, split) == (group.problem_id, group.split)
        )
        members = [row for row in mine if row[1] is not None]
        assert group.failed == len(mine) - len(members)
        assert contents(group)[3:] == tuple([row[i] for row in members] for i in range(3))
    shuffled = group_rollouts(as_table(random.sample(rows, len(rows))))
    assert [contents(g) for g in shuffled] == [contents(g) for g in groups]


def test_tables_of_several_chunks_are_grouped_as_one():
    rows = [("a", "pool", 0, 1.0, 2), ("b", "pool", 0, 0.0, 3), ("a", "pool", 1, 0.0, 4)]
    chunked = pa.concat_tables([as_table(rows[:1]), as_table(rows[1:])])
    assert [contents(g) for g in group_rollouts(chunked)] == [
        contents(g) for g in group_rollouts(as_table(rows))
    ]
    assert set(GROUP_COLUMNS) == set(SCHEMA.names)
