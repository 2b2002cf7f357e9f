"""How rollouts are cut into batches."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.sketches.batches import cut_batches

items_and_another_order = st.lists(st.integers(1, 60), max_size=30).flatmap(
    lambda lengths: st.tuples(st.just(list(enumerate(lengths))), st.permutations(list(enumerate(lengths))))
)


def cut(items, budget):
    return cut_batches(items, tokens=lambda item: item[1], identity=lambda item: item[0], batch_tokens=budget)


@settings(deadline=None)
@given(items_and_another_order, st.integers(1, 200))
def test_batches_partition_the_items_within_the_budget(orders, budget):
    items, shuffled = orders
    batches = cut(items, budget)
    flat = [item for batch in batches for item in batch]
    assert sorted(flat) == sorted(items)
    assert flat == sorted(flat, key=lambda item: (item[1], item[0]))
    for batch in batches:
        padded = len(batch) * max(length for _, length in batch)
        assert padded <= budget or len(batch) == 1
    assert cut(shuffled, budget) == batches


@settings(deadline=None)
@given(items_and_another_order, st.integers(1, 200))
def test_no_batch_could_have_taken_the_next_item(orders, budget):
    batches = cut(orders[0], budget)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * following[0][1] > budget


@pytest.mark.parametrize(
    ("budget", "expected"), [(1, [1, 1, 1, 1]), (10, [2, 1, 1]), (12, [2, 2]), (24, [4]), (23, [3, 1])]
)
def test_padding_counts_towards_the_budget(budget, expected):
    assert [len(batch) for batch in cut([("a", 4), ("b", 5), ("c", 6), ("d", 6)], budget)] == expected
