import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcurate.exports.arrow import column, one_type_or_text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None], pa.string()),
        ([None, None], pa.string()),
        ([], pa.string()),
        ([True, None], pa.bool_()),
        ([2**63 - 1, -(2**63)], pa.int64()),
        ([1, 0.5], pa.float64()),
        ([[1], [], None], pa.list_(pa.int64())),
        ([[], []], pa.list_(pa.string())),
        ([[None]], pa.list_(pa.string())),
        ([{"a": 1}, {"b": None}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([{"a": 1, "b": {}}], pa.struct([("a", pa.int64())])),
    ],
)
def test_a_column_has_the_type_of_its_values(values, expected):
    made = column(values)
    assert made.array.type == expected
    assert made.as_json == ()
    assert len(made.array) == len(values)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([5, "5"], ["5", '"5"']),
        ([True, 1], ["true", "1"]),
        ([2**63], ["9223372036854775808"]),
        ([2**53 + 1, 0.5], ["9007199254740993", "0.5"]),
        ([{"é": 1}, [1], None], ['{"é": 1}', "[1]", None]),
        ([{str(key): 1} for key in range(300)], [f'{{"{key}": 1}}' for key in range(300)]),
    ],
)
def test_what_no_type_holds_becomes_json_text(values, texts):
    made = column(values)
    assert made.array.to_pylist() == texts
    assert made.as_json == ("",)


def test_only_the_mixed_part_becomes_json_text():
    made = column([{"a": 1, "b": [1, "x"]}, {"a": 2, "b": [{"c": 3}]}])
    assert made.as_json == (".b[]",)
    assert made.array.to_pylist() == [{"a": 1, "b": ["1", '"x"']}, {"a": 2, "b": ['{"c": 3}']}]


@pytest.mark.parametrize("values", [[{}], [{}, None], [{"a": {}}, {}], [{"a": {"b": {}}}]])
def test_objects_with_nothing_in_them_are_no_column(values):
    assert column(values) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]),
        (["1", "x"], ["1", "x"]),
        ([1, 2.0], ["1", "2.0"]),
        ([5, "x"], ["5", "x"]),
        ([[1], [2]], [[1], [2]]),
        ([[1], ["a"]], ["[1]", '["a"]']),
        ([2**70], [str(2**70)]),
        ([{}], ["{}"]),
    ],
)
def test_ground_truths_keep_one_type_or_become_text(values, expected):
    assert one_type_or_text(values) == expected


def without_nothing(value):
    """Forget what Arrow's structs cannot tell apart: a missing key, a null, an empty object."""
    if isinstance(value, list):
        return [without_nothing(item) for item in value]
    if isinstance(value, dict):
        kept = {key: without_nothing(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None} or None
    return value


@given(st.lists(JSON_VALUES, max_size=4))
def test_values_come_back_unless_they_are_json_text(values):
    made = column(values)
    back = [None] * len(values) if made is None else made.array.to_pylist()
    assert len(back) == len(values)
    if made is None or not made.as_json:
        assert without_nothing(back) == without_nothing(values)
