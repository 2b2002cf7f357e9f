"""``bad_rows.jsonl``: the rows that ``--on-bad-row skip`` set aside, each with file, line and reason."""

from collections.abc import Sequence
from pathlib import Path

from gradcurate.problems.json_text import json_text
from gradcurate.problems.rows import BadRow
from gradcurate.store.atomic import replacing


def write_bad_rows(path: Path, bad_rows: Sequence[BadRow]) -> None:
    """Write the rows set aside; no file stands for none."""
    if not bad_rows:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary:
        lines = "".join(json_text(vars(row)) + "\n" for row in bad_rows)
        temporary.write_text(lines, encoding="utf-8")


def count_bad_rows(path: Path) -> int:
    """Return how many rows were set aside."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
