import pyarrow as pa
import pytest

from gradcurate.exports.rows import MESSAGES, SelectedProblem
from gradcurate.exports.verl import verl_table


def verl_record(**changed):
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 7, "split": "test", "level": 3},
        **changed,
    }


def test_schema_of_a_plain_pool(select):
    made = verl_table(select({"question": "2 + 2?", "answer": 4}), "chat")
    assert made.table.schema == pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", MESSAGES),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            (
                "extra_info",
                pa.struct([("index", pa.string()), ("split", pa.string()), ("problem_id", pa.string())]),
            ),
            ("answer", pa.string()),
            ("problem_id", pa.string()),
            ("gradcurate_rank", pa.int64()),
            ("gradcurate_score", pa.float64()),
            ("question", pa.string()),
            ("original_answer", pa.int64()),
        ]
    )
    assert made.table.schema.metadata is None
    assert made.notes == ("Original column 'answer' is now 'original_answer': its values differ.",)


def test_rows_of_a_plain_pool(select):
    (chosen,) = select({"question": "2 + 2?", "answer": "4", "solution": "It is 4."})
    (row,) = verl_table([chosen], "chat").table.to_pylist()
    problem_id = chosen.problem.problem_id
    assert row == {
        "data_source": "unknown",
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "ability": "unknown",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": problem_id, "split": "train", "problem_id": problem_id},
        "answer": "4",
        "problem_id": problem_id,
        "gradcurate_rank": 1,
        "gradcurate_score": 0.5,
        "question": "2 + 2?",
        "solution": "It is 4.",
    }


def test_a_pool_in_verls_layout_keeps_its_columns(select):
    records = [verl_record(agent_name="tool_agent"), verl_record(prompt=[{"role": "user", "content": "?"}])]
    made = verl_table(select(*records), "chat")
    assert made.notes == ()
    for row, record in zip(made.table.to_pylist(), records, strict=True):
        assert row["extra_info"].pop("problem_id") == row["problem_id"]
        assert {name: row[name] for name in record} == record


def test_what_a_verl_record_lacks_is_filled_in(select):
    record = verl_record(data_source=None, ability=None, extra_info=None, reward_model={"ground_truth": "4"})
    (row,) = verl_table(select(record), "chat").table.to_pylist()
    assert row["data_source"] == row["ability"] == "unknown"
    assert row["reward_model"] == {"ground_truth": "4", "style": "rule"}
    assert row["extra_info"]["index"] == row["problem_id"]


def test_ground_truths_of_one_type_keep_it(select):
    records = [verl_record(reward_model={"style": "rule", "ground_truth": truth}) for truth in ([1, 2], [3])]
    truths = verl_table(select(*records), "chat").table["reward_model"].combine_chunks().field("ground_truth")
    assert truths.to_pylist() == [[1, 2], [3]]


def test_ground_truths_of_two_types_become_text(select):
    records = [verl_record(reward_model={"style": "rule", "ground_truth": truth}) for truth in (5, "x")]
    made = verl_table(select(*records), "chat")
    assert [row["reward_model"]["ground_truth"] for row in made.table.to_pylist()] == ["5", "x"]
    assert "original_reward_model" in made.table.column_names


def test_indices_of_two_types_become_text(select):
    rows = verl_table(select(verl_record(), verl_record(extra_info={})), "chat").table.to_pylist()
    assert [row["extra_info"]["index"] for row in rows] == ["7", rows[1]["problem_id"]]


def test_an_extra_info_that_is_no_object_is_kept_under_another_name(select):
    (row,) = verl_table(select(verl_record(extra_info='{"index": 1}')), "chat").table.to_pylist()
    assert row["original_extra_info"] == '{"index": 1}'
    assert row["extra_info"]["split"] == "train"


@pytest.mark.parametrize(
    "name",
    [
        "index",
        "tools_kwargs",
        "interaction_kwargs",
        "raw_prompt",
        "dummy_tensor",
        "uid",
        "images",
        "videos",
        "audios",
    ],
)
def test_names_that_verl_uses_itself_are_changed_with_a_note(select, name):
    made = verl_table(select(verl_record(**{name: "x"})), "chat")
    assert made.table[f"original_{name}"].to_pylist() == ["x"]
    assert name not in made.table.column_names
    reason = "verl has a use of its own for the name"
    assert made.notes == (f"Original column {name!r} is now 'original_{name}': {reason}.",)


def test_a_changed_name_takes_no_other_columns_place(select):
    made = verl_table(select(verl_record(index=1, original_index=2)), "chat")
    assert made.table["original_index"].to_pylist() == [2]
    assert made.table["original_original_index"].to_pylist() == [1]


def test_the_prompt_is_what_was_scored(select):
    selected = select(verl_record(), {**verl_record(), "prompt": "2 + 2?"}, system_prompt="Be brief.")
    made = verl_table(selected, "chat")
    assert made.table["prompt"].to_pylist() == [list(chosen.problem.prompt) for chosen in selected]
    assert "original_prompt" not in made.table.column_names


def test_prompts_scored_as_text_are_noted(select):
    (note,) = verl_table(select(verl_record()), "text").notes
    assert "plain text" in note


def test_rows_are_in_the_order_of_their_ranks(select):
    first, second = select(verl_record(), verl_record(answer="b"))
    swapped = [SelectedProblem(first.problem, 2, 0.1), SelectedProblem(second.problem, 1, 0.2)]
    assert verl_table(swapped, "chat").table["gradcurate_rank"].to_pylist() == [1, 2]


def test_an_export_that_is_exported_again_does_not_grow(select):
    first = verl_table(select({"question": "2 + 2?", "answer": "4"}), "chat").table
    second = verl_table(select(*first.to_pylist()), "chat")
    assert second.notes == ()
    assert second.table.sort_by("gradcurate_rank").select(first.column_names) == first
    assert second.table.num_columns == first.num_columns


def test_empty_objects_are_left_out(select):
    made = verl_table(select(verl_record(extra_info={"tools": {}}, meta={})), "chat")
    assert [field.name for field in made.table.schema.field("extra_info").type] == [
        "index",
        "split",
        "problem_id",
    ]
    assert made.notes == ("Column 'meta' holds only empty objects and was left out.",)
