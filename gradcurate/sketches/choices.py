"""Choices among experts that a second forward pass repeats.

A mixture of experts is smooth only between two changes of its routing. Where a token's experts are all
but tied, a step of any size can change them, and the difference of two passes would be that of two
functions. Autograd differentiates with the choice held fixed, and so does this: ``topk`` of the second
pass returns the values at the places that the first one chose.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@final
class RecordingChoices(TorchFunctionMode):
    """Keeps what each ``topk`` in its context chose."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function."""
        del types
        found = func(*args, **(kwargs or {}))
        if _chooses(func):
            self.chosen.append(found.indices)
        return found


@final
class RepeatingChoices(TorchFunctionMode):
    """Lets each ``topk`` in its context choose what one did before, in the same order."""

    def __init__(self, chosen: Sequence[Tensor]) -> None:
        super().__init__()
        self.chosen: Iterator[Tensor] = iter(chosen)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, or gather what was chosen."""
        del types
        if not _chooses(func):
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(("input", "k", "dim"), args, strict=False)), **(kwargs or {})}
        indices = next(self.chosen)
        values = given["input"].gather(given.get("dim", -1), indices)
        return torch.return_types.topk((values, indices))


def _chooses(func: Any) -> bool:
    return func is torch.topk or func is Tensor.topk
