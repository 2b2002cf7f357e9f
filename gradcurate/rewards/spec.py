"""Which rewards a run has, and how they are called: what a worker process is told on its command line."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Self

Style = Literal["verl", "trl", "openrlhf", "slime", "areal", "verifiers"]


@dataclass(frozen=True)
class RewardSpec:
    """One reward or several.

    Attributes:
        names: Built-in names, and ``path/to/file.py:function`` of the user's own.
        weights: Of each of several; empty: one each.
        style: The trainer whose signature the user's functions have; None: recognised.
        columns: What every record of the pool has, which some trainers pass by name; None: not known.
        memory_mebibytes: What a worker process may allocate; None: as much as there is.
        timeout_seconds: What one call may take; None: the pool's own limit is not known.
    """

    names: Sequence[str]
    weights: Sequence[float] = ()
    style: Style | None = None
    columns: Sequence[str] | None = None
    memory_mebibytes: int | None = None
    timeout_seconds: float | None = None

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))
