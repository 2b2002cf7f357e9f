"""What is stored in `problems.parquet` comes back equal."""

import datetime
import decimal
import json
import uuid

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.problems import PROBLEMS_SCHEMA, Problem, problems_to_table, table_to_problems
from gradcurate.problems.json_text import json_text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": st.text()})
problem_lists = st.lists(
    st.builds(
        Problem,
        problem_id=st.text(),
        split=st.sampled_from(["pool", "validation"]),
        source=st.text(),
        prompt=st.lists(messages, max_size=3).map(tuple),
        prompt_is_text=st.booleans(),
        answer=st.text(),
        row=st.dictionaries(st.text(), json_values, max_size=3),
    ),
    max_size=4,
)


@given(problem_lists)
def test_problems_survive_the_table(problems):
    table = problems_to_table(problems)
    assert table.schema == PROBLEMS_SCHEMA
    restored = table_to_problems(table)
    assert restored == tuple(problems)
    # repr tells 1 from 1.0 and from True, which == does not.
    assert [repr(problem.row) for problem in restored] == [repr(problem.row) for problem in problems]


@settings(max_examples=20)
@given(problem_lists)
def test_problems_survive_a_parquet_file(tmp_path_factory, problems):
    file = tmp_path_factory.getbasetemp() / "problems.parquet"
    pq.write_table(problems_to_table(problems), file)
    assert table_to_problems(pq.read_table(file)) == tuple(problems)


def test_other_columns_are_no_obstacle():
    problem = Problem("a", "pool", "s", ({"role": "user", "content": "q"},), True, "2", {"q": 1})
    table = problems_to_table([problem]).append_column("rank", [[1]])
    assert table_to_problems(table) == (problem,)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC), "2024-02-29T12:30:00+00:00"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.time(1, 2, 3), "01:02:03"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (b"\x00\xff", "AP8="),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_what_json_has_no_type_for_is_written_as_text(value, text):
    assert json.loads(json_text({"v": [value]})) == {"v": [text]}


def test_letters_stay_readable():
    assert json_text({"ü": "漢"}) == '{"ü": "漢"}'


def test_a_value_with_no_agreed_text_is_refused():
    with pytest.raises(TypeError, match=r"^a value of type complex$"):
        json_text({"v": 1j})
