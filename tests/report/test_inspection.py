import numpy as np
import pytest

from gradcurate.errors import SettingsError
from gradcurate.problems import Problem
from gradcurate.report.inspection import InspectedRollout, find_problem, inspect_problem
from gradcurate.scores.groups import Group


def problem(problem_id, split="pool"):
    prompt = ({"role": "user", "content": "1 + 1?"},)
    return Problem(
        problem_id=problem_id,
        split=split,
        source="sums",
        prompt=prompt,
        answer="2",
        row={},
        prompt_is_text=True,
    )


PROBLEMS = [problem("ab12"), problem("ab13"), problem("ab"), problem("cd", split="validation")]


@pytest.mark.parametrize(("asked", "found"), [("ab12", 0), ("ab13", 1), ("ab", 2), ("c", 3), ("cd", 3)])
def test_a_problem_is_found_by_its_id_or_a_beginning_of_one_id(asked, found):
    assert find_problem(PROBLEMS, asked) is PROBLEMS[found]


@pytest.mark.parametrize(("asked", "matches"), [("ab1", 2), ("a", 3), ("", 4), ("b", 0), ("ab123", 0)])
def test_an_id_of_none_or_of_several_is_refused(asked, matches):
    with pytest.raises(SettingsError) as caught:
        find_problem(PROBLEMS, asked)
    assert str(caught.value) == (
        "PROBLEM_ID must be the id of one problem of the run, or the beginning of one; "
        f"{asked!r} matches {matches}. `gradcurate summary --run DIR` shows ids."
    )


def test_rollouts_are_shown_in_order_with_what_is_known_of_each():
    def row(rollout, reward, detail, finish):
        return {
            "rollout": rollout,
            "reward": reward,
            "reward_detail": detail,
            "completion_token_ids": [1] * (rollout + 1),
            "finish_reason": finish,
            "completion": f"answer {rollout}",
        }

    rows = [
        row(2, 1.0, "{}", "stop"),
        row(0, 0.0, '{"judge": "b"}', "length"),
        row(1, None, '{"error": "no"}', "stop"),
    ]
    numbers = np.array([0, 2])
    group = Group("ab", "pool", numbers, np.array([0.0, 1.0]), numbers + 1, failed=1)
    inspection = inspect_problem(PROBLEMS[2], group, rows, {0: -0.5, 2: 0.5}, {0: 3.0, 2: None}, None)
    assert inspection.status == "scored"
    assert inspection.score is None
    cancelled = {"status": "no_gradient", "score": None}
    assert inspect_problem(PROBLEMS[2], group, rows, {}, {}, cancelled).status == "no_gradient"
    assert inspection.rollouts == (
        InspectedRollout(0, 0.0, {"judge": "b"}, 1, "length", -0.5, 3.0, "answer 0"),
        InspectedRollout(1, None, {"error": "no"}, 2, "stop", None, None, "answer 1"),
        InspectedRollout(2, 1.0, {}, 3, "stop", 0.5, None, "answer 2"),
    )
