"""Problems are read whole, ids follow content, and no row is dropped without a word."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.errors import ProblemsError
from gradcurate.problems import BadRow, ColumnChoice, Problem, content_id, read_problems, reading
from gradcurate.problems.rows import Row

OK = {"prompt": "1+1?", "answer": "2"}
USER = {"role": "user", "content": "1+1?"}
SKIP_HINT = ", or leave such rows out with --on-bad-row skip."


def read_one(write_jsonl, record, **options):
    (problem,) = read_problems(write_jsonl(record), "pool", **options).problems
    return problem


def test_verl_rows(write_jsonl):
    record = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "system", "content": "Be brief."}, USER],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 7},
    }
    prompt = tuple(record["prompt"])
    assert read_one(write_jsonl, record) == Problem(
        content_id(prompt, "2"), "pool", "openai/gsm8k", prompt, False, "2", record
    )


def test_text_prompts_become_one_user_message(write_jsonl):
    record = {"question": "1+1?", "answer": "2", "id": 12, "subset": None}
    assert read_one(write_jsonl, record) == Problem("12", "pool", "unknown", (USER,), True, "2", record)


def test_an_override_changes_what_is_read(write_jsonl):
    record = {**OK, "id": "a", "extra_info": {"answer": "two", "question": "one?", "id": 3}, "kind": "math"}
    choice = ColumnChoice("extra_info.id", "extra_info.question", "extra_info.answer", "kind")
    default, chosen = read_one(write_jsonl, record), read_one(write_jsonl, record, columns=choice)

    def read(problem):
        return problem.problem_id, problem.prompt[0]["content"], problem.answer, problem.source

    assert read(default) == ("a", "1+1?", "2", "unknown")
    assert read(chosen) == ("3", "one?", "two", "math")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (" 2 ", " 2 "),
        (5, "5"),
        (5.0, "5.0"),
        (0, "0"),
        (True, "true"),
        (["a", "é"], '["a", "é"]'),
        ({"b": 1, "a": None}, '{"b": 1, "a": null}'),
    ],
)
def test_answers_become_text(write_jsonl, answer, text):
    assert read_one(write_jsonl, {"prompt": "q", "answer": answer}).answer == text


@pytest.mark.parametrize(
    ("answer", "text"),
    [(decimal.Decimal("1.50"), "1.50"), (datetime.date(2024, 2, 29), "2024-02-29"), (b"ab", "YWI=")],
)
def test_answers_of_parquet_types_become_text(tmp_path, answer, text):
    file = str(tmp_path / "p.parquet")
    pq.write_table(pa.table({"prompt": ["q"], "answer": [answer]}), file)
    (problem,) = read_problems(file, "pool").problems
    assert (problem.answer, problem.row) == (text, {"prompt": "q", "answer": answer})


def test_parquet_nulls_in_messages_are_no_keys(tmp_path):
    file = str(tmp_path / "p.parquet")
    message = {**USER, "name": None, "tool_calls": None}
    pq.write_table(pa.table({"prompt": [[message]], "answer": ["2"]}), file)
    (problem,) = read_problems(file, "pool").problems
    assert problem.prompt == (USER,)
    assert problem.row["prompt"] == [message]


def test_a_system_prompt_is_put_before_but_changes_no_id(write_jsonl):
    own = {"prompt": [{"role": "system", "content": "Own."}, USER], "answer": "2"}
    file = write_jsonl(OK, own)
    without = read_problems(file, "pool")
    with_prompt = read_problems(file, "pool", system_prompt="Think.")
    first, second = with_prompt.problems
    assert first.prompt == ({"role": "system", "content": "Think."}, USER)
    assert second.prompt == tuple(own["prompt"])
    assert [p.problem_id for p in with_prompt.problems] == [p.problem_id for p in without.problems]
    assert without.problems[0].prompt == (USER,)


questions = st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5, unique=True).map(
    lambda pairs: [{"prompt": f"q{question}", "answer": f"a{answer}"} for question, answer in pairs]
)


@settings(max_examples=40)
@given(records=questions, randomness=st.randoms(use_true_random=False))
def test_ids_do_not_depend_on_the_order_of_rows(tmp_path_factory, records, randomness):
    def ids_by_record(rows):
        file = tmp_path_factory.getbasetemp() / "order.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {
            (p.row["prompt"], p.row["answer"]): p.problem_id
            for p in read_problems(str(file), "pool").problems
        }

    shuffled = randomness.sample(records, len(records))
    ids = ids_by_record(records)
    assert ids == ids_by_record(shuffled)
    assert len(set(ids.values())) == len(records)


def test_ids_depend_on_prompt_and_answer_only(write_jsonl):
    base = read_one(write_jsonl, OK).problem_id
    assert read_one(write_jsonl, {**OK, "difficulty": 3}).problem_id == base
    assert read_one(write_jsonl, {**OK, "prompt": "1+1"}).problem_id != base
    assert read_one(write_jsonl, {**OK, "answer": "3"}).problem_id != base


FAULTS = {
    "no prompt": ({"answer": "2"}, "text or a list of messages in column 'prompt'; got null"),
    "number": ({"prompt": 5, "answer": "2"}, "text or a list of messages in column 'prompt'; got 5"),
    "blank": ({"prompt": " ", "answer": "2"}, "a prompt that is not empty in column 'prompt'; got ' '"),
    "no messages": ({"prompt": [], "answer": "2"}, "a prompt that is not empty in column 'prompt'; got []"),
    "no content": (
        {"prompt": [USER, {"role": "user", "content": None}], "answer": "2"},
        "messages with role and content as text; prompt[1] is {'role': 'user', 'content': None}",
    ),
    "parts": (
        {"prompt": [{"role": "user", "content": [{"type": "image", "image": "x" * 99}]}], "answer": "2"},
        "messages with role and content as text; "
        "prompt[0] is {'role': 'user', 'content': [{'type': 'image', 'image': 'xxx…",
    ),
    "no dict": (
        {"prompt": ["hello"], "answer": "2"},
        "messages with role and content as text; prompt[0] is 'hello'",
    ),
    "tool calls": (
        {"prompt": [{**USER, "tool_calls": [1], "name": "n"}], "answer": "2"},
        "messages with role and content only; prompt[0] also has tool_calls, name",
    ),
    "role": (
        {"prompt": [{"role": "bot", "content": "x"}], "answer": "2"},
        "a role of system, user, assistant, tool; prompt[0] has 'bot'",
    ),
    "assistant last": (
        {"prompt": [USER, {"role": "assistant", "content": "2"}], "answer": "2"},
        "a prompt in column 'prompt' that the policy can answer; its last message is from the assistant",
    ),
    "no answer": ({"prompt": "q"}, "an answer in column 'answer'; got null"),
    "blank answer": ({"prompt": "q", "answer": "\n"}, "an answer in column 'answer'; got '\\n'"),
    "empty list": ({"prompt": "q", "answer": []}, "an answer in column 'answer'; got []"),
    "NaN": ({"prompt": "q", "answer": float("nan")}, "an answer in column 'answer'; got nan"),
    "surrogate": (
        {"prompt": "q\ud800", "answer": "2"},
        "valid Unicode; the text has half of a surrogate pair",
    ),
    "same again": (OK, "each problem once; lines 1 and 2 have the same prompt and answer"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_row_stops_or_is_skipped(write_jsonl, case):
    record, reason = FAULTS[case]
    later = {"prompt": "later", "answer": "3"}
    file = write_jsonl(OK, record, later)
    with pytest.raises(ProblemsError) as caught:
        read_problems(file, "pool")
    assert f"{caught.value.expected}; {caught.value.received}" == f"pool.jsonl:2: expected {reason}"
    assert caught.value.remedy.endswith(SKIP_HINT)
    kept = read_problems(file, "pool", on_bad_row="skip")
    assert [problem.row for problem in kept.problems] == [OK, later]
    assert kept.lines == (1, 3)
    (bad,) = kept.bad_rows
    assert (bad.file, bad.line, bad.reason) == ("pool.jsonl", 2, f"expected {reason}")
    assert repr(bad.record) == repr(record)


def test_the_whole_message_of_a_bad_row(write_jsonl):
    file = write_jsonl(OK, {"prompt": "q", "answer": ""})
    with pytest.raises(ProblemsError) as caught:
        read_problems(file, "pool")
    assert str(caught.value) == (
        "pool.jsonl:2: expected an answer in column 'answer'; got ''. Correct the row" + SKIP_HINT
    )


def test_a_value_that_json_cannot_hold_is_a_fault(monkeypatch):
    rows = (Row(1, OK), Row(2, {"prompt": "q", "answer": "3", "image": 1j}))
    monkeypatch.setattr(reading, "read_rows", lambda path: rows)  # as the hub gives decoded images
    kept = read_problems("org/name", "pool", on_bad_row="skip")
    (bad,) = kept.bad_rows
    assert bad.reason == "expected values that JSON can hold; got a value of type complex"


@pytest.mark.parametrize("value", [None, "", True, 1.5, [1]])
def test_an_id_is_text_or_an_integer(write_jsonl, value):
    file = write_jsonl({**OK, "id": 1}, {**OK, "id": value})
    with pytest.raises(
        ProblemsError, match=r"^pool.jsonl:2: expected text or an integer as id in column 'id'; got "
    ):
        read_problems(file, "pool")
    assert len(read_problems(file, "pool", on_bad_row="skip").bad_rows) == 1


def test_repeated_user_ids_are_refused_with_ways_out(write_jsonl):
    file = write_jsonl({**OK, "id": "a"}, {**OK, "id": "b"}, {"prompt": "q", "answer": "3", "id": "a"})
    with pytest.raises(ProblemsError) as caught:
        read_problems(file, "pool")
    assert str(caught.value) == (
        "pool.jsonl:3: expected an id of its own in column 'id'; lines 1 and 3 both have 'a'. "
        "Make the ids unique, name another --id-column, take ids from content with --id-column ''" + SKIP_HINT
    )
    kept = read_problems(file, "pool", on_bad_row="skip")
    assert ([p.problem_id for p in kept.problems], kept.lines) == (["a", "b"], (1, 2))


def test_bad_rows_are_in_the_order_of_the_file(tmp_path):
    file = tmp_path / "p.jsonl"
    blank, good = '{"prompt": "", "answer": "1"}', json.dumps(OK)
    file.write_text("\n".join([blank, "{", good, "7", blank]))
    kept = read_problems(str(file), "validation", on_bad_row="skip")
    assert [bad.line for bad in kept.bad_rows] == [1, 2, 4, 5]
    assert kept.bad_rows[2] == BadRow(str(file), 4, "expected a JSON object; got 7", 7)
    assert (kept.lines, kept.problems[0].split, kept.file) == ((3,), "validation", str(file))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            ['{"prompt": "", "answer": "1"}', "["],
            "expected a prompt that is not empty in column 'prompt'; got ''",
        ),
        (["7", "8"], "expected a JSON object; got 7"),
    ],
)
def test_a_file_of_bad_rows_only_is_an_error_even_when_skipping(tmp_path, monkeypatch, lines, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    with pytest.raises(ProblemsError) as caught:
        read_problems("p.jsonl", "pool", on_bad_row="skip")
    assert str(caught.value) == (
        f"p.jsonl: expected at least one usable problem; all 2 rows were left out; line 1: {reason}. "
        "Correct the file, or name its columns."
    )
