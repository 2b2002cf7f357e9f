"""What is known of a direction file without reading its tensors, and without torch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from gradcurate.errors import RunDirectoryError, first_line
from gradcurate.store.tables import Fingerprint

RECORD_KEY = "gradcurate"


@dataclass(frozen=True)
class DirectionRecord:
    """The metadata of a direction.

    Attributes:
        norm: Its length, in the inner product of the sketches.
        batches: How many batches of validation rollouts are in the sum.
        fingerprint: What it depends on.
    """

    norm: float
    batches: int
    fingerprint: Fingerprint


def read_record(path: Path) -> DirectionRecord:
    """Read a direction's record, and none of its tensors.

    Raises:
        RunDirectoryError: The file is damaged, or not one of gradcurate's.
    """
    with reading_direction(path), safe_open(path, framework="np") as file:
        return DirectionRecord(**json.loads(file.metadata()[RECORD_KEY]))


@contextmanager
def reading_direction(path: Path) -> Iterator[None]:
    """Name the file where reading it fails.

    Raises:
        RunDirectoryError: It does.
    """
    try:
        yield
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise RunDirectoryError(
            f"{path} must be a direction that this version of gradcurate wrote",
            f"it is not: {type(error).__name__}: {first_line(error)}",
            "Remove it, and run `gradcurate score` again: only it is made anew.",
        ) from error
