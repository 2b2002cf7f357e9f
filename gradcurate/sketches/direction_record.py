"""What is known of a direction file without reading its tensors, and without torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from gradcurate.store.tables import Fingerprint

RECORD_KEY = "gradcurate"


@dataclass(frozen=True)
class DirectionRecord:
    """The metadata of a direction.

    Attributes:
        norm: Its Euclidean length.
        batches: How many batches of validation rollouts are in the sum.
        fingerprint: What it depends on.
    """

    norm: float
    batches: int
    fingerprint: Fingerprint


def read_record(path: Path) -> DirectionRecord:
    """Read a direction's record, and none of its tensors."""
    with safe_open(path, framework="np") as file:
        return DirectionRecord(**json.loads(file.metadata()[RECORD_KEY]))
