"""What a reward is asked about a completion."""

import pytest

from gradcurate.problems.problem import Problem
from gradcurate.rewards import RewardOutcome, RewardPool
from gradcurate.rollouts.rewarding import completion_scorer, reward_request
from gradcurate.rollouts.rollout import PromptedProblem


def problem(problem_id="a", split="pool", row=None):
    return Problem(problem_id, split, f"{split} source", (), True, f"answer of {problem_id}", row or {"q": 1})


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
    score = completion_scorer(pool, problems)
    asked = [("b", "pool", "one"), ("a", "validation", "three"), ("a", "pool", "")]
    outcomes = score([(PromptedProblem(i, split, (1,)), text) for i, split, text in asked])
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
    assert reward_request(problem(row=row), "text").extra_info == extra_info
