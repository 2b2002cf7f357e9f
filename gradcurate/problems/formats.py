"""Rows of a local file: JSON Lines, a JSON list, CSV, Parquet.

Records are what the format's parser gives, untouched: JSON numbers keep their types, CSV cells
are strings. A row that cannot be parsed is a `Row` with a fault, and reading goes on behind it; a
file in which rows can no longer be told apart raises `ProblemsError`.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradcurate.errors import ProblemsError, first_line
from gradcurate.problems.rows import Row, RowError, shown

# Tolerates the byte order mark that Windows tools write, also where such files were concatenated.
_UTF8 = "utf-8-sig"
_RESAVE = "Save the file as UTF-8."
_NO_PYTHON_VALUE = (ValueError, OverflowError, KeyError)
"""What pyarrow raises for text that is not UTF-8, dates that are too large, unknown time zones."""
_LONGEST_CELL = 2**31 - 1  # the csv module's own limit, 128 KiB, is less than a long document


def jsonl_rows(file: str) -> Iterator[Row]:
    """Yield one row for each line that is not blank."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _jsonl_row(number, line)


def _jsonl_row(number: int, line: bytes) -> Row:
    try:
        return _object_row(number, json.loads(line.rstrip(b"\r\n").decode(_UTF8)))
    except UnicodeDecodeError as reason:
        fault = RowError("UTF-8 text", f"byte {reason.start + 1} of the line is not UTF-8")
    except json.JSONDecodeError as reason:
        where = f"invalid JSON at column {reason.colno}: {reason.msg}"
        fault = RowError("one JSON object on the line", where)
    # A number of thousands of digits is a plain ValueError, deep nesting a RecursionError.
    except (ValueError, RecursionError) as reason:
        fault = RowError("one JSON object on the line", f"invalid JSON: {reason}")
    return Row(number, line.decode(errors="replace").rstrip("\r\n"), fault)


def _object_row(number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, value, RowError("a JSON object", f"got {shown(value)}"))


def json_rows(file: str) -> Iterator[Row]:
    """Yield the items of a JSON list; a file that does not begin with a bracket is read as JSON Lines."""
    with open(file, "rb") as opened:
        data = opened.read()
    try:
        text = data.decode(_UTF8)
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        raise ProblemsError(f"{file}:{line}: expected UTF-8 text", "got other bytes", _RESAVE) from reason
    if not text.lstrip().startswith("["):
        return jsonl_rows(file)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise ProblemsError(
            f"{file}:{getattr(reason, 'lineno', 1)}: expected a JSON list of objects",
            f"invalid JSON: {reason}",
            "Correct the file.",
        ) from reason
    return (_object_row(number, item) for number, item in enumerate(items, start=1))


def csv_rows(file: str) -> Iterator[Row]:
    """Yield the rows below the header; a cell may span lines, and the row counts from its first."""
    with open(file, "rb") as lines:
        csv.field_size_limit(_LONGEST_CELL)
        # strict: otherwise a quote that is never closed swallows the rest of the file without a word.
        reader = csv.reader(_decoded(lines), strict=True)
        try:
            header = _header(file, next(reader, []))
            start = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield _csv_row(start, header, cells)
                start = reader.line_num + 1
        except csv.Error as reason:
            raise ProblemsError(
                f"{file}:{reader.line_num}: expected well-formed CSV",
                str(reason),
                "Correct the quoting, or save the file as JSONL or Parquet.",
            ) from reason


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    # Bytes that are not UTF-8 pass as surrogates, so that they fault their own row and no other.
    return (line.decode(_UTF8, errors="surrogateescape") for line in lines)


def _header(file: str, names: list[str]) -> list[str]:
    if not _is_unicode(names):
        raise ProblemsError(f"{file}:1: expected UTF-8 text", "got other bytes", _RESAVE)
    _require_distinct(f"{file}:1", names)
    return names


def _require_distinct(place: str, names: list[str]) -> None:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ProblemsError(
            f"{place}: expected each column once", f"repeated: {', '.join(repeated)}", "Rename one of them."
        )


def _csv_row(line: int, header: list[str], cells: list[str]) -> Row:
    if not _is_unicode(cells):
        return Row(line, cells, RowError("UTF-8 text", "the row has other bytes"))
    if len(cells) != len(header):
        fault = RowError(f"{len(header)} cells, as in the header", f"the row has {len(cells)}")
        return Row(line, cells, fault)
    return Row(line, dict(zip(header, cells, strict=True)))


def _is_unicode(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def parquet_rows(file: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file, numbered from 1."""
    try:
        with pq.ParquetFile(file) as parquet:
            _require_distinct(file, parquet.schema_arrow.names)
            number = 1
            for batch in parquet.iter_batches():
                yield from _batch_rows(batch, number)
                number += len(batch)
    except (pa.ArrowException, OSError) as reason:
        raise ProblemsError(
            f"{file}: expected a readable Parquet file",
            first_line(reason),
            "Write the file again: it is damaged, or not Parquet.",
        ) from reason


def _batch_rows(batch: pa.RecordBatch, first: int) -> Iterator[Row]:
    """Yield a batch's rows; only where one cannot be a Python object is each converted by itself."""
    try:
        yield from (Row(number, record) for number, record in enumerate(batch.to_pylist(), start=first))
    except _NO_PYTHON_VALUE:
        yield from (_parquet_row(first + place, batch.slice(place, 1)) for place in range(len(batch)))


def _parquet_row(number: int, row: pa.RecordBatch) -> Row:
    try:
        return Row(number, row.to_pylist()[0])
    except _NO_PYTHON_VALUE as reason:
        fault = RowError("values that Python can hold", f"{type(reason).__name__}: {first_line(reason)}")
        return Row(number, None, fault)
