"""What a reward is asked about a completion."""

from dataclasses import replace

import pytest

from gradcurate.problems.problem import Problem
from gradcurate.rewards import RewardOutcome, RewardPool
from gradcurate.rollouts.rewarding import Answer, completion_scorer, reward_request
from gradcurate.rollouts.rollout import Completion, PromptedProblem


def problem(problem_id="a", split="pool", row=None):
    return Problem(problem_id, split, f"{split} source", (), True, f"answer of {problem_id}", row or {"q": 1})


def answer(problem_id, split, text):
    completion = Completion((5, 6), (-1.0, -2.0), "stop")
    return Answer(PromptedProblem(problem_id, split, (1, 2)), completion, text, f"{text}<eos>", "<user>q")


class FakePool(RewardPool):
    """Starts no workers: keeps what it is asked, and rewards by length."""

    def __init__(self):
        self.requests = []

    def score(self, requests):
        self.requests = requests
        return [RewardOutcome(float(len(request.solution_str)), {}) for request in requests]


def test_requests_carry_the_problems_own_answer_and_source_in_order():
    pool = FakePool()
    problems = [problem("a"), problem("b"), problem("a", "validation")]
    score = completion_scorer(pool, problems, "chat")
    asked = [("b", "pool", "one"), ("a", "validation", "three"), ("a", "pool", "")]
    outcomes = score([answer(*one) for one in asked])
    assert [outcome.reward for outcome in outcomes] == [3.0, 5.0, 0.0]
    assert [(r.data_source, r.solution_str, r.ground_truth) for r in pool.requests] == [
        ("pool source", "one", "answer of b"),
        ("validation source", "three", "answer of a"),
        ("pool source", "", "answer of a"),
    ]


@pytest.mark.parametrize(
    ("row", "extra_info"),
    [
        ({"extra_info": {"index": 3}, "q": 1}, {"index": 3}),
        ({"extra_info": "text", "q": 1}, {"extra_info": "text", "q": 1}),
        ({"q": 1}, {"q": 1}),
    ],
)
def test_extra_info_is_the_records_own_or_the_whole_record(row, extra_info):
    assert reward_request(problem(row=row), answer("a", "pool", "text"), "chat").extra_info == extra_info


def test_a_request_has_what_any_trainer_would_pass():
    asked = replace(problem(), prompt=({"role": "system", "content": "s"}, {"role": "user", "content": "q"}))
    chat, text = (reward_request(asked, answer("a", "pool", "x"), form) for form in ("chat", "text"))
    assert chat.prompt == [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert text.prompt == "s\n\nq"
    assert chat == replace(text, prompt=chat.prompt)
    assert (chat.prompt_text, chat.solution_str, chat.raw_completion) == ("<user>q", "x", "x<eos>")
    assert (chat.prompt_token_ids, chat.completion_token_ids) == ((1, 2), (5, 6))
    assert chat.row == {"q": 1}
