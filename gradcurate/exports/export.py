"""Writing a selection as the file that a trainer loads, with the recipe for loading it.

    <folder>/train-<sha8>.parquet    named by its content, and never written over
    <folder>/recipe.md               flags for the file that was exported last

A name by content is what makes the file safe to swap between rounds: `datasets`, axolotl and
open-instruct cache what they read by its path, and would go on with the old rows.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gradcurate.errors import RunDirectoryError
from gradcurate.exports.arrow import NotedTable
from gradcurate.exports.jsonl import jsonl_lines, jsonl_recipe
from gradcurate.exports.rows import PromptFormat, SelectedProblem
from gradcurate.exports.trl import trl_recipe, trl_table
from gradcurate.exports.verl import verl_recipe, verl_table
from gradcurate.store.atomic import replacing

FormatName = Literal["verl", "trl", "jsonl"]


@dataclass(frozen=True)
class Encoded:
    """The bytes of an export, and what its reader should know of them."""

    content: bytes
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """How a trainer's file is made, and how the trainer is told to load it."""

    suffix: str
    encode: Callable[[Sequence[SelectedProblem], PromptFormat], Encoded]
    recipe: Callable[[Path, int], str]


@dataclass(frozen=True)
class Export:
    """A file that was written, with notes on what in it differs from the pool."""

    format: FormatName
    path: Path
    rows: int
    notes: tuple[str, ...]


def _parquet(made: NotedTable) -> Encoded:
    sink = pa.BufferOutputStream()
    pq.write_table(made.table, sink, store_schema=False)  # a stored schema is metadata, and adds nothing here
    return Encoded(sink.getvalue().to_pybytes(), made.notes)


FORMATS: Mapping[FormatName, Format] = {
    "verl": Format(".parquet", lambda selected, asked: _parquet(verl_table(selected, asked)), verl_recipe),
    "trl": Format(".parquet", lambda selected, asked: _parquet(trl_table(selected, asked)), trl_recipe),
    "jsonl": Format(
        ".jsonl", lambda selected, asked: Encoded(jsonl_lines(selected, asked), ()), jsonl_recipe
    ),
}


def write_export(
    format: FormatName,  # noqa: A002 - the user's word for it
    selected: Sequence[SelectedProblem],
    prompt_format: PromptFormat,
    folder: Path,
    warnings: Sequence[str] = (),
) -> Export:
    """Write the selection into ``folder``, by rank, with its recipe beside it.

    The same selection gives the same path and bytes, and leaves a file that is there alone. Warnings of the
    selection are the recipe's first lines.

    Raises:
        RunDirectoryError: The file of that name has other content: it was changed after its export.
    """
    kind = FORMATS[format]
    encoded = kind.encode(selected, prompt_format)
    path = folder / f"train-{hashlib.sha256(encoded.content).hexdigest()[:8]}{kind.suffix}"
    _write_once(path, encoded.content)
    warned = "".join(f"> **Warning.** {warning}\n\n" for warning in warnings)
    recipe = warned + kind.recipe(path.absolute(), len(selected)) + _noted(encoded.notes)
    with replacing(folder / "recipe.md") as temporary:
        temporary.write_text(recipe, encoding="utf-8")
    return Export(format, path, len(selected), (*warnings, *encoded.notes))


def _write_once(path: Path, content: bytes) -> None:
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    elif path.read_bytes() != content:
        raise RunDirectoryError(
            f"{path} must hold what its name says: it is a digest of the content",
            "the file was changed after it was exported",
            "Move it away and export again.",
        )


def _noted(notes: Sequence[str]) -> str:
    return (
        "".join(["\n## What differs from the pool\n\n", *(f"- {note}\n" for note in notes)]) if notes else ""
    )
