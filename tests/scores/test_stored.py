"""Stored rows, a problem at a time, however they are spread over shards."""

import numpy as np
import pyarrow as pa
import pytest

from gradcurate.scores import stored
from gradcurate.scores.stored import COLUMNS, read_rows
from gradcurate.store.tables import read_table, write_table
from scores.samples import DIM, axis, write_shard


def read(folder, wanted, split="pool"):
    """What is read, as plain lists."""
    return [
        (
            rows.problem_id,
            None if rows.sketches is None else rows.sketches.tolist(),
            rows.derivatives.tolist(),
        )
        for rows in read_rows(folder, split, wanted)
    ]


@pytest.fixture
def spread(tmp_path):
    """Ten problems of three rollouts, the rollouts of each in as many shards."""
    rng = np.random.default_rng(0)
    for rollout in range(3):
        rows = [(f"p{n}", rollout, rng.normal(size=DIM), float(10 * n + rollout)) for n in range(10)]
        write_shard(tmp_path, f"pool-{rollout}", [rows[place] for place in rng.permutation(10)])
    return tmp_path


def test_rows_are_the_stored_lengths_times_the_stored_units(tmp_path):
    write_shard(tmp_path, "pool-1", [("a", 0, axis(0, 2.0), 10.0), ("b", 0, axis(1, 5.0), 20.0)])
    write_shard(tmp_path, "pool-2", [("a", 1, axis(2, 3.0), 30.0), ("dead", 0, axis(3), 1.0)])
    assert read(tmp_path, {"a": [0, 1], "b": [0]}) == [
        ("a", [axis(0, 2.0).tolist(), axis(2, 3.0).tolist()], [10.0, 30.0]),
        ("b", [axis(1, 5.0).tolist()], [20.0]),
    ]


def test_rows_come_in_the_order_in_which_they_are_wanted(spread):
    [(_, forwards, along)] = read(spread, {"p7": [0, 1, 2]})
    [(_, backwards, along_backwards)] = read(spread, {"p7": [2, 1, 0]})
    assert along == [70.0, 71.0, 72.0]
    assert (backwards, along_backwards) == (forwards[::-1], along[::-1])
    assert forwards[0] != forwards[2]
    assert [problem_id for problem_id, _, _ in read(spread, {"p9": [1], "p0": [2], "p4": [0]})] == [
        "p9",
        "p0",
        "p4",
    ]


@pytest.mark.parametrize("rows_at_once", [1, 4, 7, 30])
def test_blocks_are_read_as_one(spread, monkeypatch, rows_at_once):
    wanted = {f"p{n}": [2, 0] for n in range(10)}
    expected = read(spread, wanted)
    passes = []
    original = stored._read_block
    monkeypatch.setattr(stored, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(stored, "_read_block", lambda *of: passes.append(len(of[2])) or original(*of))
    assert read(spread, wanted) == expected
    assert sum(passes) == 10
    assert max(passes) == min(10, -(-rows_at_once // 2))  # the last problem of a block may exceed it


def test_a_problem_without_all_of_its_rows_is_left_out(tmp_path):
    write_shard(tmp_path, "pool-1", [("a", 0, axis(0), 1.0), ("b", 0, axis(0), 1.0)])
    assert [p for p, _, _ in read(tmp_path, {"a": [0, 1], "b": [0], "c": [0]})] == ["b"]
    assert [p for p, _, _ in read(tmp_path, {"a": [0], "b": [0]})] == ["a", "b"]


def test_of_a_folder_without_shards_there_is_nothing(tmp_path):
    assert read(tmp_path, {"a": [0]}) == []


def test_none_is_the_number_of_a_sum(tmp_path):
    write_shard(tmp_path, "pool-1", [("a", None, axis(0, 2.0), 10.0), ("b", 0, axis(1), 20.0)])
    assert read(tmp_path, {"a": [None], "b": [0]}) == [
        ("a", [axis(0, 2.0).tolist()], [10.0]),
        ("b", [axis(1).tolist()], [20.0]),
    ]
    assert read(tmp_path, {"a": [0], "b": [None]}) == []


def test_splits_are_kept_apart(tmp_path):
    write_shard(tmp_path, "pool-1", [("a", 0, axis(0), 1.0)])
    write_shard(tmp_path, "validation-1", [("a", 0, axis(7), None)])
    assert read(tmp_path, {"a": [0]}) == [("a", [axis(0).tolist()], [1.0])]
    [(_, sketches, derivatives)] = read(tmp_path, {"a": [0]}, "validation")
    assert sketches == [axis(7).tolist()]
    assert np.isnan(derivatives).all()


def test_rows_without_a_sketch_have_their_derivatives_still(tmp_path):
    """As `--scorer forward` leaves them."""
    write_shard(tmp_path, "pool-1", [("a", 0, axis(0), 1.0), ("a", 1, axis(1), 2.0)])
    made = read_table(tmp_path / "pool-1.parquet")
    place = made.schema.get_field_index("sketch")
    field = pa.field("sketch", pa.list_(pa.float16(), DIM))
    null = made.set_column(place, field, pa.nulls(len(made), field.type))
    write_table(tmp_path / "pool-1.parquet", null, "sketches", {})
    assert read(tmp_path, {"a": [1, 0]}) == [("a", None, [2.0, 1.0])]


def test_only_the_columns_that_scores_need_are_read(spread, monkeypatch):
    asked = []

    def watched(path, columns=None):
        asked.append(columns)
        return read_table(path, columns)

    monkeypatch.setattr(stored, "read_table", watched)
    assert len(read(spread, {"p0": [0]})) == 1
    assert asked == [COLUMNS] * 3
