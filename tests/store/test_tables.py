"""Parquet files that know where they come from; files of others are refused in words."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradcurate.errors import RunDirectoryError
from gradcurate.store.tables import read_fingerprint, read_shards, read_table, shard_paths, write_table

SCHEMA = pa.schema([("problem_id", pa.string()), ("reward", pa.float64())])
ROWS = st.lists(
    st.fixed_dictionaries({"problem_id": st.text(), "reward": st.none() | st.floats(allow_nan=False)}),
    max_size=3,
)
FINGERPRINTS = st.dictionaries(
    st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), max_size=4
)
MANY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=25,
    derandomize=True,
)
READERS = pytest.mark.parametrize("read", [read_fingerprint, read_table])


def table_of(*rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def refusal(read, path):
    with pytest.raises(RunDirectoryError) as caught:
        read(path)
    return str(caught.value)


def refused(path, reason):
    return (
        "Every Parquet file of a run directory must be one that this version of gradcurate wrote; "
        f"{path} is not: {reason}. "
        "Remove that file and run the same command again: only its rows are made anew."
    )


@MANY
@given(shards=st.lists(ROWS, max_size=4), fingerprint=FINGERPRINTS)
def test_what_is_written_is_read(tmp_path_factory, shards, fingerprint):
    folder = tmp_path_factory.mktemp("shards")
    for number, rows in enumerate(shards):
        path = folder / f"{number}.parquet"
        write_table(path, table_of(*rows), "rollouts", fingerprint)
        assert read_fingerprint(path) == fingerprint
        assert read_table(path).to_pylist() == rows
    everything = read_shards(folder, SCHEMA)
    assert everything.schema == SCHEMA
    assert everything.to_pylist() == [row for rows in shards for row in rows]
    assert read_shards(folder, SCHEMA, ["reward"]).to_pylist() == [
        {"reward": row["reward"]} for rows in shards for row in rows
    ]


def test_an_empty_or_absent_folder_has_no_rows_and_all_columns(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        table = read_shards(folder, SCHEMA)
        assert (table.schema, len(table)) == (SCHEMA, 0)
        assert read_shards(folder, SCHEMA, ["reward"]).column_names == ["reward"]


def test_shards_come_in_the_order_of_their_names_and_temporary_ones_never(tmp_path):
    for name in ("b", "a", ".c"):
        write_table(
            tmp_path / f"{name}.parquet", table_of({"problem_id": name, "reward": 0.0}), "rollouts", {}
        )
    (tmp_path / ".a.parquet.x1").write_bytes(b"half a shard")
    (tmp_path / "notes.txt").write_text("mine")
    assert [path.name for path in shard_paths(tmp_path)] == ["a.parquet", "b.parquet"]
    assert read_shards(tmp_path, SCHEMA)["problem_id"].to_pylist() == ["a", "b"]


def test_the_contract_of_the_metadata(tmp_path):
    write_table(tmp_path / "a.parquet", table_of(), "scores", {"k": 1})
    metadata = pq.read_metadata(tmp_path / "a.parquet").metadata
    assert json.loads(metadata[b"gradcurate"]) == {
        "schema_version": 1,
        "stage": "scores",
        "fingerprint": {"k": 1},
    }


@READERS
@pytest.mark.parametrize("kept", [0, 3, 20, -1])
def test_a_truncated_file_is_refused(tmp_path, read, kept):
    path = tmp_path / "a.parquet"
    write_table(path, table_of({"problem_id": "a", "reward": 1.0}), "rollouts", {})
    read(path)
    path.write_bytes(path.read_bytes()[:kept])
    start, end = refused(path, "|").split("|")
    found = refusal(read, path)
    assert found.startswith(f"{start}Parquet ")
    assert found.endswith(end)
    assert "\n" not in found


@READERS
def test_a_file_of_another_program_is_refused(tmp_path, read):
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(), path)
    assert refusal(read, path) == refused(path, "it carries no gradcurate metadata")


@READERS
def test_a_file_of_another_version_is_refused(tmp_path, read):
    path = tmp_path / "a.parquet"
    contract = json.dumps({"schema_version": 2, "stage": "rollouts", "fingerprint": {}})
    pq.write_table(table_of().replace_schema_metadata({"gradcurate": contract}), path)
    assert refusal(read, path) == refused(path, "its schema version is 2, not 1")


@READERS
def test_a_file_that_is_not_there(tmp_path, read):
    path = tmp_path / "a.parquet"
    assert refusal(read, path).startswith(refused(path, "|").split("|")[0])


def test_one_bad_shard_stops_the_reading_of_all(tmp_path):
    write_table(tmp_path / "a.parquet", table_of(), "rollouts", {})
    pq.write_table(pa.table({"other": [1]}), tmp_path / "b.parquet")
    assert refusal(lambda folder: read_shards(folder, SCHEMA), tmp_path) == refused(
        tmp_path / "b.parquet", "it carries no gradcurate metadata"
    )
