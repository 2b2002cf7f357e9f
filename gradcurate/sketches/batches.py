"""Cutting rollouts into batches under a token budget.

A batch is the unit of commit, so the cut depends on the rollouts and the budget alone: never on
what is already done, nor on the order in which rollouts arrive.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def cut_batches(
    items: Iterable[Item], tokens: Callable[[Item], int], identity: Callable[[Item], Any], batch_tokens: int
) -> list[tuple[Item, ...]]:
    """Cut items, sorted by length, into batches of at most ``batch_tokens`` padded tokens.

    An item longer than the budget makes a batch of its own.

    Args:
        items: Anything with a length in tokens.
        tokens: The length of an item.
        identity: Breaks ties between items of one length; unique to each item.
        batch_tokens: The budget: rows times the longest row.
    """
    batches: list[list[Item]] = []
    for item in sorted(items, key=lambda item: (tokens(item), identity(item))):
        if batches and (len(batches[-1]) + 1) * tokens(item) <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
    return [tuple(batch) for batch in batches]
