"""What a judge's file may say, and what a reply means."""

import functools
import re

import pytest

from gradcurate.errors import RewardError
from gradcurate.rewards.judges.judge import read_judge

FILE = """
server = "http://localhost:8000/v1"
template = "Is {{ response }} the answer to {{ prompt }}? It is {{ answer }} ({{ source }}, {{ row.level }})."
pattern = "Verdict: (yes|no)"
scores = { yes = 1.0, no = -1 }
"""


@pytest.fixture
def judge(tmp_path):
    """A judge with lines instead of others, or besides."""

    def read(**lines):
        kept = [line for line in FILE.splitlines() if line.partition(" ")[0] not in lines]
        path = tmp_path / "judge.toml"
        added = [f"{name} = {value}" for name, value in lines.items() if value is not None]
        path.write_text("\n".join([*kept, *added]))
        return read_judge(path)

    return read


def test_a_question_has_the_problem_s_and_the_completion_s_text(judge):
    values = {"prompt": "1 + 1?", "response": "{{ 2 }}", "answer": "2", "source": "sums", "row": {"level": 3}}
    assert judge().question(**values) == "Is {{ 2 }} the answer to 1 + 1?? It is 2 (sums, 3)."


@pytest.mark.parametrize(
    ("lines", "reply", "reward"),
    [
        ({}, "Verdict: yes", 1.0),
        ({}, "Verdict: yes. No: Verdict: no", -1.0),
        ({"divide_by": "2"}, "Verdict: yes", 0.5),
        ({"pattern": '"yes|no"'}, "yes or no", -1.0),
        ({"scores": None, "pattern": r"'Score: ([\d.]+)'", "divide_by": "10"}, "Score: 7.5", 0.75),
    ],
)
def test_the_last_match_is_the_verdict(judge, lines, reply, reward):
    assert judge(**lines).verdict(reply) == reward


@pytest.mark.parametrize(
    ("lines", "reply", "message"),
    [
        ({}, "It is right.", "the judge's reply has no match of 'Verdict: (yes|no)': 'It is right.'"),
        (
            {"pattern": "'Verdict: (.*)'"},
            "Verdict: maybe",
            "the judge said 'maybe', which is none of yes, no",
        ),
        ({"scores": None}, "Verdict: yes", "could not convert string to float: 'yes'"),
    ],
)
def test_a_reply_that_means_nothing_is_no_reward(judge, lines, reply, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        judge(**lines).verdict(reply)


@pytest.mark.parametrize(
    ("lines", "received"),
    [
        ({"server": None}, "server: Field required"),
        ({"server": "'localhost:8000'"}, "server: 'localhost:8000' was given"),
        ({"patern": "'x'"}, "patern: Unexpected keyword argument"),
        ({"pattern": "'('"}, "pattern: missing ), unterminated subpattern at position 0"),
        (
            {"template": "'{{ prompt'"},
            "template: unexpected end of template, expected 'end of print statement'",
        ),
        (
            {"template": "'{{ question }}'"},
            "template: question is none of prompt, response, answer, source, row",
        ),
        ({"budget": "-1"}, "budget: Input should be greater than or equal to 0"),
        (
            {"scores": "{ yes = 'x' }"},
            "scores.yes: Input should be a valid number, unable to parse string as a number",
        ),
        ({"model": "'"}, 'Expected "\'" (at end of document)'),
    ],
)
def test_a_faulty_file_is_refused(judge, tmp_path, lines, received):
    with pytest.raises(RewardError) as caught:
        judge(**lines)
    assert caught.value.args == (
        "a judge is a TOML file with server, template and pattern",
        f"{tmp_path / 'judge.toml'}: {received}",
        "docs/rewards.md has an example.",
    )


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RewardError, match=r"none\.toml: No such file or directory"):
        read_judge(tmp_path / "none.toml")


def test_a_judge_without_a_name_is_another_at_another_address(judge):
    elsewhere = judge(server="'http://other/v1'")
    assert elsewhere.digest != judge().digest
    assert elsewhere.question_digest != judge().question_digest


def test_rewards_depend_on_the_question_and_its_reading_alone(judge):
    first = judge(model="'n'")
    judge = functools.partial(judge, model="'n'")
    for elsewhere in ({"server": "'http://other/v1'"}, {"budget": "5"}):
        assert judge(**elsewhere).digest == first.digest
    for other in ({"pattern": "'yes|no'"}, {"divide_by": "2"}):
        assert judge(**other).digest != first.digest
        assert judge(**other).question_digest == first.question_digest
    for other in (
        {"template": "'{{ response }}'"},
        {"model": "'m'"},
        {"temperature": "1"},
        {"max_tokens": "9"},
    ):
        assert judge(**other).digest != first.digest
        assert judge(**other).question_digest != first.question_digest
