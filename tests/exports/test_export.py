import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradcurate.errors import RunDirectoryError
from gradcurate.exports.export import FORMATS, write_export
from gradcurate.exports.rows import SelectedProblem
from gradcurate.problems.problem import Problem

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
# datasets 5.2 cannot load a file with a NUL in the name of a column, whoever wrote it.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4) | st.sampled_from(
    ["prompt", "answer", "reward_model", "extra_info", "data_source", "index", "images", "source", "solution"]
)
PROBLEMS = st.builds(
    lambda row, answer: Problem("", "pool", "s", ({"role": "user", "content": "Q"},), False, answer, row),
    row=st.dictionaries(NAMES, VALUES, max_size=5),
    answer=st.text(min_size=1, max_size=5),
)
SELECTIONS = st.lists(PROBLEMS, min_size=1, max_size=4).map(
    lambda problems: [SelectedProblem(problem, rank, 0.5) for rank, problem in enumerate(problems, start=1)]
)
EVERY_FORMAT = pytest.mark.parametrize("name", list(FORMATS))
EVERY_PARQUET = pytest.mark.parametrize("name", ["verl", "trl"])


@pytest.fixture
def selected(select):
    return select({"question": "2 + 2?", "answer": "4"}, {"question": "3 + 3?", "answer": "6"})


def types_within(arrow_type):
    yield arrow_type
    for position in range(arrow_type.num_fields):
        yield from types_within(arrow_type.field(position).type)


@EVERY_FORMAT
def test_a_file_is_named_by_its_content(selected, tmp_path, name):
    made = write_export(name, selected, "chat", tmp_path)
    digest = hashlib.sha256(made.path.read_bytes()).hexdigest()[:8]
    assert made.path == tmp_path / f"train-{digest}{FORMATS[name].suffix}"
    assert (made.format, made.rows, made.notes) == (name, 2, ())
    assert {path.name for path in tmp_path.iterdir()} == {made.path.name, "recipe.md"}


@EVERY_FORMAT
def test_the_same_again_leaves_the_file_alone(selected, tmp_path, name):
    first = write_export(name, selected, "chat", tmp_path)
    before = first.path.stat()
    assert write_export(name, selected[::-1], "chat", tmp_path) == first
    assert first.path.stat().st_mtime_ns == before.st_mtime_ns
    assert first.path.stat().st_ino == before.st_ino


def test_another_selection_is_another_file(selected, tmp_path):
    first = write_export("verl", selected, "chat", tmp_path)
    second = write_export("verl", selected[:1], "chat", tmp_path)
    assert first.path != second.path
    assert first.path.exists()
    assert second.path.name in (tmp_path / "recipe.md").read_text()


def test_a_file_that_was_changed_is_not_written_over(selected, tmp_path):
    made = write_export("verl", selected, "chat", tmp_path)
    made.path.write_bytes(b"changed")
    with pytest.raises(RunDirectoryError, match="was changed after it was exported"):
        write_export("verl", selected, "chat", tmp_path)
    assert made.path.read_bytes() == b"changed"


@EVERY_FORMAT
def test_the_recipe_names_the_file(selected, tmp_path, name):
    made = write_export(name, selected, "chat", tmp_path)
    recipe = (tmp_path / "recipe.md").read_text()
    assert str(made.path) in recipe or name == "jsonl"
    assert "2 problems" in recipe
    assert "What differs" not in recipe


def test_the_recipes_say_how_to_keep_order_and_resume(selected, tmp_path):
    for name, phrases in {
        "verl": ("data.shuffle=False", "data.train_batch_size` above 2 gives 0 steps", "data.pt"),
        "trl": ("shuffle_dataset: false", "ignore_data_skip=True"),
    }.items():
        write_export(name, selected, "chat", tmp_path / name)
        recipe = (tmp_path / name / "recipe.md").read_text()
        assert all(phrase in recipe for phrase in phrases)


def test_the_recipe_repeats_the_notes(select, tmp_path):
    made = write_export("trl", select({"prompt": "Q", "answer": "4", "images": "x"}), "chat", tmp_path)
    assert f"- {made.notes[0]}\n" in (tmp_path / "recipe.md").read_text()


@EVERY_PARQUET
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(selected=SELECTIONS)
def test_any_records_give_a_plain_parquet_file(tmp_path, name, selected):
    made = write_export(name, selected, "chat", tmp_path)
    assert write_export(name, selected, "chat", tmp_path).path == made.path
    file = pq.ParquetFile(made.path)
    assert file.metadata.metadata is None
    assert file.schema_arrow.metadata is None
    seen = {inner for column in file.schema_arrow.types for inner in types_within(column)}
    assert not any(pa.types.is_null(found) for found in seen)
    assert not any(pa.types.is_large_string(found) or pa.types.is_large_list(found) for found in seen)
    rows = file.read().to_pylist()
    assert [row["prompt"] for row in rows] == [list(chosen.problem.prompt) for chosen in selected]
    assert [row["answer"] for row in rows] == [chosen.problem.answer for chosen in selected]


@EVERY_PARQUET
@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(selected=SELECTIONS)
def test_any_records_load_with_datasets(tmp_path: Path, name, selected):
    made = write_export(name, selected, "chat", tmp_path / "export")
    loaded = load_dataset(
        "parquet", data_files=str(made.path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["problem_id"] == [chosen.problem.problem_id for chosen in selected]
    assert loaded["prompt"] == [list(chosen.problem.prompt) for chosen in selected]
