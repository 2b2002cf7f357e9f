"""Rows of a dataset on the Hugging Face hub: ``org/name``, ``org/name:split``, ``org/name:config:split``.

The split is ``train`` unless named, and may be a slice as `datasets` writes it (``train[:100]``).
"""

import re
from collections.abc import Iterator

from gradcurate.errors import ProblemsError, first_line
from gradcurate.problems.rows import Row

_HUB_ID = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:(?::(?P<config>[^:\[\]]+))?:(?P<split>[^:\[\]]+(?:\[[^\]]*\])?))?"
)


def is_hub_id(path: str) -> bool:
    """Tell whether ``path`` has the form of a hub id."""
    return _HUB_ID.fullmatch(path) is not None


def hub_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a hub dataset, numbered from 1 within the split."""
    parts = _HUB_ID.fullmatch(path)
    assert parts is not None, f"{path} is not a hub id"
    import datasets  # costs seconds, which a run on local files should not pay

    try:
        dataset = datasets.load_dataset(parts["name"], parts["config"], split=parts["split"] or "train")
    except Exception as reason:  # network, hub, cache and builder each raise classes of their own
        raise ProblemsError(
            f"{path}: expected a dataset that loads from the Hugging Face hub",
            first_line(reason),
            "Check the name, the split and the network, or give a local file (none has this name).",
        ) from reason
    return (Row(number, record) for number, record in enumerate(dataset, start=1))
