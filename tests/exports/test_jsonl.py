import json

from gradcurate.exports.jsonl import jsonl_lines

RECORD = {"id": 7, "question": "¿2 + 2?", "answer": "5", "extra": {"empty": {}, "mixed": [1, "1", None]}}


def test_a_line_is_the_record_and_one_key(select):
    line = jsonl_lines(select(RECORD, system_prompt="Be brief."), "chat")
    assert "¿" in line.decode()
    back = json.loads(line)
    assert back.pop("gradcurate") == {
        "problem_id": "7",
        "rank": 1,
        "score": 0.5,
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿2 + 2?"}],
    }
    assert list(back.items()) == list(RECORD.items())


def test_prompts_asked_as_text_are_text(select):
    assert json.loads(jsonl_lines(select(RECORD), "text"))["gradcurate"]["prompt"] == "¿2 + 2?"


def test_the_key_of_an_earlier_export_is_replaced(select):
    earlier = jsonl_lines(select(RECORD), "chat")
    assert jsonl_lines(select(json.loads(earlier)), "chat") == earlier
