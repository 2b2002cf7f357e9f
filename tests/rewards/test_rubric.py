"""Rubrics as verifiers builds them: functions, weights, and a parser that those get who name it."""

import pytest

from gradcurate.errors import RewardError
from gradcurate.rewards import RewardRequest, RewardSpec, load_rewards

FILE = '''
class Parser:
    def parse_answer(self, completion):
        return completion[-1]["content"].rpartition(" ")[2]

class Rubric:
    """As verifiers has it, with its attributes of one version or another."""

    def __init__(self, funcs, weights=None, names=("funcs", "weights")):
        setattr(self, names[0], funcs)
        setattr(self, names[1], weights or [1.0] * len(funcs))
        self.class_objects = {"parser": Parser(), "unused": 1}

async def right(parser, completion, answer, **_):
    return float(parser.parse_answer(completion) == answer)

def short(completion, state):
    return float(len(completion[-1]["content"]) < 10) if state["prompt"] else None

def level(level):
    return level

def of_a_group(states):
    return [1.0 for _ in states]

new = Rubric([right, short, level], [1.0, 0.5, 0.0])
old = Rubric([right, short], names=("reward_funcs", "reward_weights"))
empty = Rubric([])
grouped = Rubric([right, of_a_group])
'''
PROMPT = [{"role": "user", "content": "2 + 2?"}]
REQUEST = RewardRequest("s", "it is 4", "4", {}, row={"level": 3}, prompt=PROMPT)


@pytest.fixture
def load(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    return lambda name: load_rewards(RewardSpec([f"{tmp_path / 'mine.py'}:{name}"], columns=["level"]))


@pytest.mark.parametrize(
    ("name", "reward", "detail"),
    [("new", 1.5, {"right": 1.0, "short": 1.0, "level": 3.0}), ("old", 2.0, {"right": 1.0, "short": 1.0})],
)
def test_its_functions_add_up_by_its_weights(load, name, reward, detail):
    outcome = load(name)(REQUEST)
    assert (outcome.reward, outcome.detail) == (reward, detail)


def test_a_rubric_without_functions_is_refused(load):
    with pytest.raises(RewardError, match="must have a function; it has none"):
        load("empty")


def test_a_function_of_whole_groups_is_refused(load):
    with pytest.raises(RewardError, match=r"mine\.py:of_a_group' must accept the keywords"):
        load("grouped")


def test_a_function_that_needs_the_parser_is_no_reward_by_itself(load):
    with pytest.raises(RewardError, match=r"mine\.py:right' must accept the keywords"):
        load("right")
