"""Parquet files that know where they come from.

Each file carries, under the metadata key ``gradcurate``, the schema version, its stage, and the
stage's fingerprint: every setting and digest that its rows depend on. Shards of one stage lie in
one folder; a shard is named by its content's key, is written once, and is never appended to.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gradcurate.errors import RunDirectoryError, first_line
from gradcurate.store.atomic import replacing

SCHEMA_VERSION = 1
METADATA_KEY = b"gradcurate"

Fingerprint = Mapping[str, str | int | float | bool | None]
"""What the rows of a stage depend on, by name."""


def write_table(path: Path, table: pa.Table, stage: str, fingerprint: Fingerprint) -> None:
    """Write one Parquet file atomically."""
    contract = {"schema_version": SCHEMA_VERSION, "stage": stage, "fingerprint": dict(fingerprint)}
    metadata = {METADATA_KEY: json.dumps(contract).encode()}
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_fingerprint(path: Path) -> dict[str, str | int | float | bool | None]:
    """Return the fingerprint that a file was written under.

    Raises:
        RunDirectoryError: The file is not one of gradcurate's, or cannot be read.
    """
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, first_line(error)) from error
    if METADATA_KEY not in metadata:
        raise _unreadable(path, "it carries no gradcurate metadata")
    try:
        contract = json.loads(metadata[METADATA_KEY])
        version, fingerprint = contract["schema_version"], dict(contract["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, "its gradcurate metadata is damaged") from error
    if version != SCHEMA_VERSION:
        raise _unreadable(path, f"its schema version is {version}, not {SCHEMA_VERSION}")
    return fingerprint


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file of a run.

    Raises:
        RunDirectoryError: The file is not one of gradcurate's, or cannot be read.
    """
    read_fingerprint(path)
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, first_line(error)) from error


def shard_paths(folder: Path) -> list[Path]:
    """Return the finished shards of a stage, in order of their names."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def read_shards(folder: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read all shards of a stage as one table; no shards give no rows."""
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    tables = [read_table(path, columns) for path in shard_paths(folder)]
    return pa.concat_tables([wanted.empty_table(), *(table.cast(wanted) for table in tables)])


def _unreadable(path: Path, reason: str) -> RunDirectoryError:
    return RunDirectoryError(
        "Every Parquet file of a run directory must be one that this version of gradcurate wrote",
        f"{path} is not: {reason}",
        "Remove that file and run the same command again: only its rows are made anew.",
    )
