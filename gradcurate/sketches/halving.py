"""Batches that do not fit in memory are cut in half, and so is every later one of their size.

Rows do not interact, so this changes no result beyond rounding.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, final

import torch

from gradcurate.errors import OutOfMemoryError, first_line
from gradcurate.sketches.token_batch import TokenBatch

Part = TypeVar("Part")
Attempt = Callable[[TokenBatch, slice, set[str]], Part]
"""Runs some rows. What it adds to the set is done for all of them, should it fail for lack of memory
after that: the attempts on its halves find it there."""


@final
@dataclass
class Budget:
    """The smallest batch that is cut, in padded tokens: too large for the settings, or for the memory."""

    too_many_tokens: int = sys.maxsize


def run_in_parts(
    batch: TokenBatch, budget: Budget, attempt: Attempt[Part], remedy: str, *, single_rows: bool = False
) -> list[Part]:
    """Run a batch at once, or in parts that fit; return what each left, in the order of the rows.

    Args:
        batch: The rows' tokens.
        budget: What is known of the memory; learns.
        attempt: Runs a part.
        remedy: What to do about a single row that does not fit.
        single_rows: Rows must pass one at a time.

    Raises:
        OutOfMemoryError: A single row does not fit.
    """

    def run(first: int, last: int, before: frozenset[str]) -> list[Part]:
        part, rows, done = batch.slice(first, last), last - first, set(before)
        if rows == 1 or not (single_rows or part.padded_tokens >= budget.too_many_tokens):
            try:
                return [attempt(part, slice(first, last), done)]
            except RuntimeError as error:  # torch has no other class for it on a CPU
                if not is_out_of_memory(error):
                    raise
                if rows == 1:
                    raise _too_long(part, error, remedy) from error
            budget.too_many_tokens = min(budget.too_many_tokens, part.padded_tokens)
            if part.input_ids.is_cuda:
                torch.cuda.empty_cache()
        middle = first + rows // 2
        return run(first, middle, frozenset(done)) + run(middle, last, frozenset(done))

    return run(0, len(batch.lengths), frozenset())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether the error is a lack of memory, on an accelerator or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _too_long(row: TokenBatch, error: RuntimeError, remedy: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"A rollout of {row.padded_tokens} tokens must fit in memory with its activations",
        f"it does not: {first_line(error)}",
        remedy,
    )
