"""Layouts are recognised, overrides win, and what is missing is named with a guess."""

import pytest

from gradcurate.errors import ProblemsError
from gradcurate.problems import ColumnChoice
from gradcurate.problems.columns import Columns, column_names, lookup, resolve_columns

NOTHING_CHOSEN = ColumnChoice()

VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "1+1?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 0, "split": "train", "answer": "worked out: 2"},
}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (VERL, Columns(None, "prompt", "reward_model.ground_truth", "data_source")),
        ({**VERL, "answer": "two"}, Columns(None, "prompt", "reward_model.ground_truth", "data_source")),
        ({"prompt": "q", "solution": "s"}, Columns(None, "prompt", "solution", None)),
        ({"prompt": "q", "ground_truth": "s"}, Columns(None, "prompt", "ground_truth", None)),
        ({"question": "q", "answer": "a"}, Columns(None, "question", "answer", None)),
        ({"problem": "q", "solution": "s", "answer": "a"}, Columns(None, "problem", "answer", None)),
        ({"input": "q", "label": "a", "id": 1}, Columns("id", "input", "label", None)),
        (
            {"input": "q", "question": "r", "prompt": "s", "answer": "a"},
            Columns(None, "prompt", "answer", None),
        ),
        (
            {"uid": 1, "problem_id": 2, "prompt": "q", "answer": "a"},
            Columns("problem_id", "prompt", "answer", None),
        ),
        (
            {"prompt": "q", "answer": "a", "subset": "s", "source": "t"},
            Columns(None, "prompt", "answer", "source"),
        ),
    ],
)
def test_layouts_are_recognised(record, expected):
    assert resolve_columns([record], NOTHING_CHOSEN, "f") == expected


def test_columns_are_judged_on_all_records():
    records = [{"question": "q"}, {"answer": "a", "source": "s"}]
    assert resolve_columns(records, NOTHING_CHOSEN, "f") == Columns(None, "question", "answer", "source")


@pytest.mark.parametrize(
    ("role", "column"),
    [
        ("id", "extra_info.index"),
        ("prompt", "ability"),
        ("answer", "extra_info.answer"),
        ("source", "extra_info.split"),
    ],
)
def test_an_override_wins(role, column):
    recognised = resolve_columns([VERL], NOTHING_CHOSEN, "f")
    overridden = resolve_columns([VERL], ColumnChoice(**{role: column}), "f")
    assert getattr(recognised, role) != column
    assert overridden == Columns(**{**vars(recognised), role: column})


def test_an_empty_id_column_asks_for_ids_from_content():
    record = {"id": 1, "prompt": "q", "answer": "a"}
    assert resolve_columns([record], NOTHING_CHOSEN, "f").id == "id"
    assert resolve_columns([record], ColumnChoice(id=""), "f").id is None


@pytest.mark.parametrize(
    ("record", "choice", "message"),
    [
        (
            {"promt": "q", "answer": "a"},
            NOTHING_CHOSEN,
            "f: expected a column with the prompt (prompt, question, problem or input); "
            "the columns are promt, answer. Did you mean --prompt-column promt?",
        ),
        (
            {"prompt": "q", "completion": "a"},
            NOTHING_CHOSEN,
            "f: expected a column with the answer (reward_model.ground_truth, answer, ground_truth, "
            "solution or label); the columns are prompt, completion. Name the column with --answer-column.",
        ),
        (
            {"prompt": "q", "extra_info": {"answer": "a"}},
            NOTHING_CHOSEN,
            "f: expected a column with the answer (reward_model.ground_truth, answer, ground_truth, "
            "solution or label); the columns are prompt, extra_info, extra_info.answer. "
            "Did you mean --answer-column extra_info.answer?",
        ),
        (
            {"Prompt": "q", "answer": "a"},
            ColumnChoice(prompt="prompt"),
            "f: expected the column 'prompt' of --prompt-column; the columns are Prompt, answer. "
            "Did you mean --prompt-column Prompt?",
        ),
        (
            {"prompt": "q", "answer": "a", "idx": 3},
            ColumnChoice(id="xyz"),
            "f: expected the column 'xyz' of --id-column; the columns are prompt, answer, idx. "
            "Name the column with --id-column.",
        ),
        (
            {"prompt": "q", "answer": "a", "origin": "o"},
            ColumnChoice(source="orign"),
            "f: expected the column 'orign' of --source-column; the columns are prompt, answer, origin. "
            "Did you mean --source-column origin?",
        ),
    ],
)
def test_a_missing_column_is_named_with_a_guess(record, choice, message):
    with pytest.raises(ProblemsError) as caught:
        resolve_columns([record], choice, "f")
    assert str(caught.value) == message


def test_a_guess_is_no_column_of_another_role():
    with pytest.raises(ProblemsError, match=r"Name the column with --prompt-column\.$"):
        resolve_columns([{"problem_id": 1, "answer": "a"}], NOTHING_CHOSEN, "f")


def test_a_long_list_of_columns_is_cut():
    record = {f"c{number:02}": 0 for number in range(33)}
    with pytest.raises(ProblemsError, match=r"c28, c29 and 3 more\. "):
        resolve_columns([record], NOTHING_CHOSEN, "f")


def test_a_name_with_dots_is_a_column_first_and_a_path_second():
    nested = {"meta": {"answer": {"text": "nested"}}}
    assert lookup(nested, "meta.answer.text") == "nested"
    assert lookup({**nested, "meta.answer.text": "flat"}, "meta.answer.text") == "flat"
    assert lookup({"meta": None}, "meta.answer.text") is None
    assert column_names([nested]) == ("meta", "meta.answer", "meta.answer.text")
