"""Finding and reading the files of a dump: one file, a folder of them, or a pattern."""

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gradcurate.errors import RolloutsError, first_line
from gradcurate.rollouts.ingest.dumped_rollout import DumpedRollout
from gradcurate.rollouts.ingest.formats import READERS, DumpFormat, recognised

SUFFIXES = (".jsonl", ".parquet")


def dump_files(dump: str) -> list[Path]:
    """Return the files of a dump, in order of their names.

    In prime-rl's folders, ``effective`` repeats rows of ``all``, and ``eval`` is no training;
    open-instruct writes a file of metadata beside its own.

    Raises:
        RolloutsError: There are none.
    """
    path = Path(dump).expanduser()
    named = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = {file for place in named for file in ([place] if place.is_file() else place.rglob("*"))}
    kept = sorted(file for file in files if file.suffix in SUFFIXES and not _is_beside(file))
    if not kept:
        raise RolloutsError(
            "--dump must name JSONL or Parquet files, a folder of them, or a pattern",
            f"{dump} holds none" if path.is_dir() else f"there is no file {dump}",
            "Check the path; a relative one starts at the working directory.",
        )
    return kept


def read_dump(dump: str) -> Iterator[DumpedRollout]:
    """Yield every rollout of a dump.

    Raises:
        RolloutsError: A file cannot be read, or is no dump of a known trainer.
    """
    for file in dump_files(dump):
        for number, record in _records(file):
            place = f"{file}:{number}"
            read = READERS[_format(record, place)]
            try:
                rollouts = read(record, place)
            except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
                raise RolloutsError(
                    f"{place}: a record must have the fields of its trainer's dump",
                    f"reading it raised {type(error).__name__}: {error}",
                    "Take this file out of --dump.",
                ) from error
            yield from rollouts


def _is_beside(file: Path) -> bool:
    if file.name == "traces.jsonl":
        return file.parent.name == "effective" or file.parent.parent.name == "eval"
    return file.name.endswith("_metadata.jsonl")


def _format(record: Any, place: str) -> DumpFormat:
    found = recognised(record) if isinstance(record, dict) else None
    if found is None:
        raise RolloutsError(
            f"{place}: a record must be of {', '.join(READERS)}",
            f"its fields are {', '.join(record) or 'none'}"
            if isinstance(record, dict)
            else "it has no fields",
            "Give rollouts that one of these trainers wrote.",
        )
    return found


def _records(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield each record with its line, or its row, counted from 1."""
    try:
        if file.suffix == ".parquet":
            rows = (row for batch in pq.ParquetFile(file).iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
            return
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except (OSError, ValueError) as error:
        raise RolloutsError(
            f"{file} must be a readable dump", first_line(error), "Take it out of --dump."
        ) from error
