"""From what the user typed to rows: a local file by its suffix, else a dataset of the hub.

A local path always wins over a hub id of the same spelling.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gradcurate.errors import ProblemsError
from gradcurate.problems.formats import csv_rows, json_rows, jsonl_rows, parquet_rows
from gradcurate.problems.hub import hub_rows, is_hub_id
from gradcurate.problems.rows import Row

_READERS: Mapping[str, Callable[[str], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": json_rows,
    ".parquet": parquet_rows,
    ".csv": csv_rows,
}
_SUFFIXES = ", ".join(_READERS)


def read_rows(path: str) -> tuple[Row, ...]:
    """Return all rows of a file or hub dataset, faulty ones included; at least one.

    Raises:
        ProblemsError: There is no such file, it is of no known kind, or it holds no rows.
    """
    try:
        rows = tuple(_reader(path)(path))
    except OSError as reason:
        raise ProblemsError(
            f"{path}: expected a file that can be read", str(reason.strerror), "Check its permissions."
        ) from reason
    if not rows:
        raise ProblemsError(f"{path}: expected at least one row", "it has none", "Give a file with problems.")
    return rows


def _reader(path: str) -> Callable[[str], Iterator[Row]]:
    local = Path(path)
    suffix = local.suffix.lower()
    if not local.exists():
        if suffix not in _READERS and is_hub_id(path):
            return hub_rows
        raise _no_such_file(local)
    if local.is_dir():
        raise _directory(local)
    if suffix not in _READERS:
        raise ProblemsError(
            f"{path}: expected one of the suffixes {_SUFFIXES}",
            f"got {suffix!r}",
            "Rename or convert the file.",
        )
    if local.stat().st_size == 0:
        raise ProblemsError(f"{path}: expected at least one row", "the file is empty", "Write it again.")
    return _READERS[suffix]


def _no_such_file(path: Path) -> ProblemsError:
    expected = f"{path}: expected a file, or a hub dataset as org/name[:config][:split]"
    if not path.parent.is_dir():
        return ProblemsError(expected, f"the folder {path.parent} does not exist", "Check the path.")
    names = [entry.name for entry in path.parent.iterdir()]
    guess = difflib.get_close_matches(path.name, names, n=1)
    remedy = f"Did you mean {path.parent / guess[0]}?" if guess else "Check the path."
    return ProblemsError(expected, "there is no such file", remedy)


def _directory(path: Path) -> ProblemsError:
    names = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in _READERS)
    remedy = f"Give one of its files: {', '.join(names)}." if names else f"Give a file ({_SUFFIXES})."
    return ProblemsError(f"{path}: expected a file", "it is a directory", remedy)
