"""Python values as Arrow columns that every trainer's loader takes.

    text, whole numbers, numbers, true or false    string, int64, double, bool
    objects                                        struct of the union of their keys
    lists                                          list
    only nulls                                     string, for loaders cannot join a column of type null
    several types, or numbers beyond the above     string, each value as JSON text

These rules hold at every depth. An object without keys has no Parquet type, so a column of nothing
but such objects is left out. Large types and schema metadata are never written: loaders refuse to
join them with plain ones, or read them in other versions than they were written by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from gradcurate.problems.json_text import json_text

_INT64 = range(-(2**63), 2**63)
_EXACT_IN_DOUBLE = range(-(2**53), 2**53 + 1)
_MOST_FIELDS = 256  # an object used as a map would otherwise give every row the keys of all others


@dataclass(frozen=True)
class Column:
    """An array, and the paths of those parts of it that hold JSON text (``""`` is the array itself)."""

    array: pa.Array
    as_json: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotedTable:
    """A table, and what its reader should know of it, in sentences."""

    table: pa.Table
    notes: tuple[str, ...]


def noted_table(
    columns: Mapping[str, Sequence[Any]], types: Mapping[str, pa.DataType], notes: Sequence[str]
) -> NotedTable:
    """Return the columns as a table; those without a type in ``types`` get one from their values."""
    arrays: dict[str, pa.Array] = {}
    more: list[str] = []
    for name, values in columns.items():
        made = Column(pa.array(values, types[name])) if name in types else column(values)
        if made is None:
            more.append(f"Column {name!r} holds only empty objects and was left out.")
            continue
        arrays[name] = made.array
        more += [
            f"Column {name + path!r} holds values of several types, as JSON text." for path in made.as_json
        ]
    return NotedTable(pa.table(arrays), (*notes, *more))


def column(values: Sequence[Any]) -> Column | None:
    """Return JSON-like values as a column, or None if they are objects with nothing in them."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {list}:
        return _lists(values)
    if kinds == {dict}:
        fields = dict.fromkeys(key for value in values if value for key in value)
        return _objects(values, tuple(fields)) if len(fields) <= _MOST_FIELDS else _texts(values)
    scalar = _scalar_type(kinds, values)
    return Column(pa.array(values, scalar)) if scalar else _texts(values)


def one_type_or_text(values: Sequence[Any]) -> list[Any]:
    """Return the values if one type fits them all, else each as text: text as it is, others as JSON."""
    made = column(values)
    if len({type(value) for value in values}) == 1 and made is not None and not made.as_json:
        return list(values)
    return [text_of(value) for value in values]


def text_of(value: Any) -> str:
    """Return text as it is, and any other value as JSON text."""
    return value if isinstance(value, str) else json_text(value)


def _scalar_type(kinds: set[type], values: Sequence[Any]) -> pa.DataType | None:
    whole = [value for value in values if type(value) is int]
    if kinds <= {str}:
        return pa.string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(value in _INT64 for value in whole):
        return pa.int64()
    if kinds <= {int, float} and all(value in _EXACT_IN_DOUBLE for value in whole):
        return pa.float64()
    return None


def _texts(values: Sequence[Any]) -> Column:
    texts = [None if value is None else json_text(value) for value in values]
    return Column(pa.array(texts, pa.string()), as_json=("",))


def _lists(values: Sequence[Any]) -> Column:
    items = [item for value in values if value is not None for item in value]
    inner = column(items) or Column(pa.nulls(len(items), pa.string()))
    offsets = accumulate((len(value) if value is not None else 0 for value in values), initial=0)
    array = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), inner.array, mask=pa.array([value is None for value in values])
    )
    return Column(array, tuple("[]" + path for path in inner.as_json))


def _objects(values: Sequence[Any], names: Sequence[str]) -> Column | None:
    every = {name: column([value.get(name) if value else None for value in values]) for name in names}
    filled = {name: made for name, made in every.items() if made is not None}
    if not filled:
        return None
    array = pa.StructArray.from_arrays(
        [made.array for made in filled.values()],
        fields=[pa.field(name, made.array.type) for name, made in filled.items()],
        mask=pa.array([value is None for value in values]),
    )
    return Column(array, tuple(f".{name}{path}" for name, made in filled.items() for path in made.as_json))
