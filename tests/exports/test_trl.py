import pyarrow as pa
import pytest

from gradcurate.exports.rows import MESSAGES
from gradcurate.exports.trl import trl_table

FLAT = {"question": "2 + 2?", "answer": "4"}


@pytest.mark.parametrize(("prompt_format", "prompt"), [("chat", MESSAGES), ("text", pa.string())])
def test_schema(select, prompt_format, prompt):
    schema = trl_table(select(FLAT), prompt_format).table.schema
    assert schema == pa.schema(
        [
            ("prompt", prompt),
            ("answer", pa.string()),
            ("solution", pa.string()),
            ("source", pa.string()),
            ("problem_id", pa.string()),
            ("gradcurate_rank", pa.int64()),
            ("gradcurate_score", pa.float64()),
            ("question", pa.string()),
        ]
    )
    assert schema.metadata is None


def test_the_prompt_is_as_it_was_asked(select):
    selected = select(FLAT, system_prompt="Be brief.")
    (chat,) = trl_table(selected, "chat").table["prompt"].to_pylist()
    (text,) = trl_table(selected, "text").table["prompt"].to_pylist()
    assert chat == list(selected[0].problem.prompt)
    assert text == "Be brief.\n\n2 + 2?"


def test_the_solution_is_the_records_own_else_the_answer(select):
    made = trl_table(select({**FLAT, "solution": "Sum."}, FLAT, {**FLAT, "solution": 4}), "chat")
    assert made.table["solution"].to_pylist() == ["Sum.", "4", "4"]
    assert made.table["original_solution"].to_pylist() == ['"Sum."', None, "4"]
    assert made.notes == (
        "Original column 'solution' is now 'original_solution': its values differ.",
        "Column 'original_solution' holds values of several types, as JSON text.",
    )


@pytest.mark.parametrize(
    "name",
    [
        "completions",
        "prompts",
        "image",
        "images",
        "trainer_state",
        "log_extra",
        "log_metric",
        "completion_ids",
    ],
)
def test_names_that_trl_breaks_on_are_changed_with_a_note(select, name):
    made = trl_table(select({**FLAT, name: None}), "chat")
    assert made.table[f"original_{name}"].to_pylist() == [None]
    assert name not in made.table.column_names
    assert made.notes == (
        f"Original column {name!r} is now 'original_{name}': TRL has a use of its own for the name.",
    )


def test_a_column_of_an_own_name_but_other_content_is_kept(select):
    record = {"question": "2 + 2?", "prompt": [{"role": "user", "content": "Other"}], "answer": "4"}
    made = trl_table(select({**record, "source": "b", "data_source": "a"}), "chat")
    assert made.table["source"].to_pylist() == ["a"]
    assert made.table["original_source"].to_pylist() == ["b"]
