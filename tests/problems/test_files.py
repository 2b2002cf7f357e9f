"""Every format gives its records untouched, and every fault of a file has its own message."""

import builtins
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.errors import ProblemsError
from gradcurate.problems.files import read_rows
from gradcurate.problems.rows import Row

RECORDS = [
    {"prompt": "Grüße, 1+1?", "answer": 5, "extra": {"weights": [1, 2.0, None, True]}},
    {"prompt": "two\nlines\u2028and more", "answer": 5.0, "extra": None},
]
ROW_1 = Row(1, RECORDS[0])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
json_records = st.lists(st.dictionaries(st.text(), json_values, max_size=3), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("laws")


def same_with_types(left, right):
    return repr(left) == repr(right)


def error_of(path):
    with pytest.raises(ProblemsError) as caught:
        read_rows(path)
    return str(caught.value)


def faults_of(path):
    return [
        (row.line, f"{row.fault.expected}; {row.fault.received}", row.record)
        for row in read_rows(path)
        if row.fault is not None
    ]


@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson", "p.JSONL", "p.json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_lines(folder, name, encoding):
    text = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
    (folder / name).write_text(text, encoding=encoding)
    assert same_with_types(read_rows(name), (Row(1, RECORDS[0]), Row(3, RECORDS[1])))


def test_a_json_list(folder):
    (folder / "p.json").write_text("\ufeff \n" + json.dumps(RECORDS, indent=2), encoding="utf-8")
    assert same_with_types(read_rows("p.json"), (Row(1, RECORDS[0]), Row(2, RECORDS[1])))


def test_parquet(folder):
    records = [{**record, "answer": 5, "extra": {"a": [1.5]}} for record in RECORDS]
    pq.write_table(pa.Table.from_pylist(records), folder / "p.parquet", row_group_size=1)
    assert same_with_types(read_rows("p.parquet"), (Row(1, records[0]), Row(2, records[1])))


def test_csv_cells_are_strings_and_may_span_lines(folder):
    (folder / "p.csv").write_bytes('\ufeffprompt,answer\r\n"a\nb, ""c""",05\r\n\r\nd,\r\n'.encode())
    first, second = read_rows("p.csv")
    assert first == Row(2, {"prompt": 'a\nb, "c"', "answer": "05"})
    assert second == Row(5, {"prompt": "d", "answer": ""})


@settings(max_examples=40)
@given(json_records)
def test_json_records_come_back_untouched(module_folder, records):
    lines, listed = module_folder / "p.jsonl", module_folder / "p.json"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    listed.write_text(json.dumps(records))
    expected = tuple(Row(number, record) for number, record in enumerate(records, start=1))
    assert same_with_types(read_rows(str(lines)), expected)
    assert same_with_types(read_rows(str(listed)), expected)


def test_bad_lines_do_not_hide_the_good_ones(folder):
    good = json.dumps(RECORDS[0]).encode()
    (folder / "p.jsonl").write_bytes(
        b"\n".join([good, b'{"prompt": ', b"[1, 2]", b'{"prompt": "\xff"}', b"[" * 100_000, good, b""])
    )
    faults = faults_of("p.jsonl")
    assert faults[:3] == [
        (
            2,
            "one JSON object on the line; invalid JSON at column 12: Expecting value",
            '{"prompt": ',
        ),
        (3, "a JSON object; got [1, 2]", [1, 2]),
        (4, "UTF-8 text; byte 13 of the line is not UTF-8", '{"prompt": "\N{REPLACEMENT CHARACTER}"}'),
    ]
    assert faults[3][0] == 5
    assert faults[3][1].startswith("one JSON object on the line; invalid JSON: maximum recursion depth")
    assert [row.line for row in read_rows("p.jsonl") if row.fault is None] == [1, 6]


def test_csv_rows_of_another_length_or_encoding_are_faulty(folder):
    (folder / "p.csv").write_bytes(b'prompt,answer\n"a\nb",1,2\nc\nd\xff,4\ne,5\n')
    assert faults_of("p.csv") == [
        (2, "2 cells, as in the header; the row has 3", ["a\nb", "1", "2"]),
        (4, "2 cells, as in the header; the row has 1", ["c"]),
        (5, "UTF-8 text; the row has other bytes", ["d\udcff", "4"]),
    ]
    assert read_rows("p.csv")[-1] == Row(6, {"prompt": "e", "answer": "5"})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.jsonl", b"", "p.jsonl: expected at least one row; the file is empty. Write it again."),
        ("p.jsonl", b"\n \n", "p.jsonl: expected at least one row; it has none. Give a file with problems."),
        ("p.json", b"[]", "p.json: expected at least one row; it has none. Give a file with problems."),
        ("p.csv", b"a,b\n", "p.csv: expected at least one row; it has none. Give a file with problems."),
        (
            "p.txt",
            b"x",
            "p.txt: expected one of the suffixes .jsonl, .ndjson, .json, .parquet, .csv; got '.txt'. "
            "Rename or convert the file.",
        ),
        (
            "p.json",
            b'[\n{"a": 1},\n]',
            "p.json:3: expected a JSON list of objects; "
            "invalid JSON: Expecting value: line 3 column 1 (char 12). Correct the file.",
        ),
        ("p.json", b'[\n"\xff"]', "p.json:2: expected UTF-8 text; got other bytes. Save the file as UTF-8."),
        (
            "p.csv",
            b"a\xff,b\n1,2\n",
            "p.csv:1: expected UTF-8 text; got other bytes. Save the file as UTF-8.",
        ),
        ("p.csv", b"a,b,a\n1,2,3\n", "p.csv:1: expected each column once; repeated: a. Rename one of them."),
        (
            "p.csv",
            b'a,b\n1,"2\n3,4\n',
            "p.csv:3: expected well-formed CSV; unexpected end of data. "
            "Correct the quoting, or save the file as JSONL or Parquet.",
        ),
        (
            "p.parquet",
            b"not parquet at all",
            "p.parquet: expected a readable Parquet file; Parquet magic bytes not found in footer. "
            "Either the file is corrupted or this is not a parquet file. "
            "Write the file again: it is damaged, or not Parquet.",
        ),
    ],
)
def test_an_unusable_file_is_named_with_the_reason(folder, name, data, message):
    (folder / name).write_bytes(data)
    assert error_of(name) == message


def test_parquet_damaged_inside_is_an_error(folder):
    pq.write_table(pa.table({"prompt": ["a" * 100]}), folder / "p.parquet", use_dictionary=False)
    intact = (folder / "p.parquet").read_bytes()
    (folder / "p.parquet").write_bytes(intact[:4] + b"\xff" * 30 + intact[34:])
    assert error_of("p.parquet").startswith("p.parquet: expected a readable Parquet file; ")


def test_a_missing_file_is_guessed_from_its_folder(folder):
    (folder / "train_pool.jsonl").write_text("{}")
    expected = "expected a file, or a hub dataset as org/name[:config][:split]"
    assert error_of("train-pool.jsonl") == (
        f"train-pool.jsonl: {expected}; there is no such file. Did you mean train_pool.jsonl?"
    )
    assert error_of("x.csv") == f"x.csv: {expected}; there is no such file. Check the path."
    # It has the form of a hub id too, but the suffix says that a file was meant.
    assert error_of("data/p.jsonl") == (
        f"data/p.jsonl: {expected}; the folder data does not exist. Check the path."
    )


def test_a_directory_is_answered_with_its_files(folder):
    for name in ("data/b.parquet", "data/a.jsonl", "data/notes.md", "empty/notes.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert error_of("data") == (
        "data: expected a file; it is a directory. Give one of its files: a.jsonl, b.parquet."
    )
    assert error_of("empty") == (
        "empty: expected a file; it is a directory. Give a file (.jsonl, .ndjson, .json, .parquet, .csv)."
    )


def test_a_file_that_may_not_be_read_is_an_error(folder, monkeypatch):
    (folder / "p.jsonl").write_text("{}")

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refused)
    assert error_of("p.jsonl") == (
        "p.jsonl: expected a file that can be read; Permission denied. Check its permissions."
    )


def test_a_parquet_row_that_python_cannot_hold_is_that_row_s_fault(folder):
    buffers = pa.array([b"fine", b"\xff\xfe", b"too"], pa.binary()).buffers()
    texts = pa.StringArray.from_buffers(3, buffers[1], buffers[2])
    pq.write_table(pa.table({"prompt": texts}), folder / "p.parquet")
    first, second, third = read_rows("p.parquet")
    assert (first, third) == (Row(1, {"prompt": "fine"}), Row(3, {"prompt": "too"}))
    assert (second.line, second.fault.expected) == (2, "values that Python can hold")
    assert second.fault.received.startswith("UnicodeDecodeError: ")


def test_parquet_columns_of_one_name_are_an_error(folder):
    pq.write_table(pa.table([["1"], ["2"]], names=["answer", "answer"]), folder / "p.parquet")
    with pytest.raises(ProblemsError) as caught:
        read_rows("p.parquet")
    assert str(caught.value) == (
        "p.parquet: expected each column once; repeated: answer. Rename one of them."
    )


def test_a_csv_cell_may_be_a_long_document(folder):
    long = "x" * 200_000
    (folder / "p.csv").write_text(f"prompt,answer\n{long},1\n")
    assert read_rows("p.csv") == (Row(2, {"prompt": long, "answer": "1"}),)
