"""Finding a reward by what the user wrote, and the exact words when it is not there."""

import sys

import pytest

from gradcurate.errors import RewardError
from gradcurate.rewards import RewardRequest, RewardSpec, load_rewards

ASKED = RewardRequest("s", "x", "x", {"k": 2})
FOUR = "data_source, solution_str, ground_truth, extra_info"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a reward file; what loading it does to sys.path and sys.modules is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})

    def write_file(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_file


def load(name, **how):
    return load_rewards(RewardSpec([name], **how))


def reward_of(name, **how):
    return load(name, **how)(ASKED).reward


def refusal(name, **how):
    with pytest.raises(RewardError) as caught:
        load(name, **how)
    return caught.value.args


@pytest.mark.parametrize("name", ["math", "exact", "numeric", "choice", "reasoning_gym"])
def test_every_built_in_name_loads(name):
    assert callable(load(name))


def test_an_unknown_name_lists_the_known_and_suggests_the_nearest():
    expected = (
        "a reward is one of math, exact, numeric, choice, code, reasoning_gym, path/to/file.py:function, "
        "or a judge's .toml"
    )
    hint = "Choose one of these names, or point to your own function."
    assert refusal("nummeric") == (expected, "got 'nummeric'", f"{hint} Did you mean 'numeric'?")
    assert refusal("zzz") == (expected, "got 'zzz'", hint)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "gradcurate.rewards.gym", raising=False)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    expected, _, remedy = refusal("reasoning_gym")
    assert expected == "the reward 'reasoning_gym' needs the package reasoning-gym"
    assert remedy == "Run `pip install 'gradcurate[reasoning-gym]'`."


@pytest.mark.parametrize(
    "parameters", [FOUR, "data_source, solution_str, ground_truth, extra_info=None, **others", "**kwargs"]
)
def test_a_function_of_verls_shape_is_called_by_keyword(write, parameters):
    body = "kwargs['extra_info']['k']" if parameters == "**kwargs" else "extra_info['k']"
    path = write(f"def score({parameters}):\n    return {body}\n")
    assert reward_of(f"{path}:score") == 2


def test_a_coroutine_function_is_run_to_its_end(write):
    path = write("async def score(**kwargs):\n    return 0.25\n")
    assert reward_of(f"{path}:score") == 0.25


def test_a_file_imports_its_neighbours_and_may_be_called_json(write):
    import json

    write("WORTH = 3\n", "neighbour_of_mine.py")
    path = write("from neighbour_of_mine import WORTH\ndef score(**kwargs):\n    return WORTH\n", "json.py")
    assert reward_of(f"{path}:score") == 3
    assert sys.modules["json"] is json


def test_a_missing_function_lists_those_there_are(write):
    path = write("from os.path import join\ndef compute_score(**k): ...\ndef other(**k): ...\nscore = 3\n")
    assert refusal(f"{path}:compute_scor") == (
        f"{path} must define a function 'compute_scor'",
        "its functions are compute_score, other",
        "Name the function after the colon. Did you mean 'compute_score'?",
    )
    assert refusal(f"{path}:score")[1] == "its functions are compute_score, other"
    assert refusal(f"{write('x = 1', 'empty.py')}:f")[1] == "it defines no function"


def test_a_missing_file_and_a_missing_function_name(tmp_path):
    path = tmp_path / "none.py"
    assert refusal(f"{path}:f") == (
        f"the reward '{path}:f' must name a Python file",
        f"there is no file {path}",
        "Check the path; a relative one starts at the working directory.",
    )
    assert refusal("none.py") == (
        "a reward of your own is written path/to/file.py:function",
        "got 'none.py'",
        "Write none.py:compute_score, with the name of your function.",
    )


@pytest.mark.parametrize(
    ("text", "received"),
    [
        (
            "x = 1\nimport no_such_module\n",
            "it raised ModuleNotFoundError: No module named 'no_such_module' (line 2)",
        ),
        ("import json\n\njson.loads(1)\n", "(line 3)"),
        ("import sys\nsys.exit(3)\n", "it raised SystemExit: 3 (line 2)"),
        ("def score(:\n", "it raised SyntaxError: invalid syntax (mine.py, line 1)"),
    ],
)
def test_a_file_that_fails_to_import_says_where(write, text, received):
    path = write(text)
    expected, got, remedy = refusal(f"{path}:score")
    assert expected == f"the reward file {path} must import without an error"
    assert got.endswith(received)
    assert remedy == f"Run `{sys.executable} {path}` to see the whole traceback."


def test_several_rewards_add_up_by_their_weights(write):
    path = write(
        "def two(**k): return 2\ndef half(**k): return {'score': 0.5, 'why': 'half'}\n"
        "def none(completions, **k): return [None]\ndef broken(**k): return 'x'\n"
    )
    names = [f"{path}:two", f"{path}:half", f"{path}:none"]
    outcome = load_rewards(RewardSpec(names, weights=[1.0, 10.0, 5.0]))(ASKED)
    assert outcome.reward == 7.0
    assert outcome.detail == {"two": 2.0, "half": {"why": "half", "reward": 0.5}, "none": None}
    assert load_rewards(RewardSpec([*names[:2], "exact"]))(ASKED).reward == 3.5
    failed = load_rewards(RewardSpec([*names, f"{path}:broken"]))(ASKED)
    assert failed.reward is None
    assert failed.detail["error"] == "broken: returned 'x', not a number"
    assert load_rewards(RewardSpec(names[:1], weights=[3.0]))(ASKED).reward == 6.0
    alone = load_rewards(RewardSpec([names[2], names[2]]))(ASKED)
    assert (alone.reward, alone.detail["error"]) == (None, "no reward applies to this problem")


def test_rewards_of_one_name_keep_their_files(write):
    one, other = (f"{write('def score(**k): return 1', name)}:score" for name in ("a.py", "b.py"))
    assert load_rewards(RewardSpec([one, other]))(ASKED).detail == {one: 1.0, other: 1.0}


def test_only_a_trl_function_may_say_that_it_does_not_apply(write):
    path = write(
        "def silent(**k): return None\ndef trl(completions, **k): return [None]\ndef one(**k): return 1\n"
    )
    failed = load_rewards(RewardSpec([f"{path}:silent", f"{path}:one"]))(ASKED)
    assert (failed.reward, failed.detail["error"]) == (None, "silent: returned None, not a number")
    assert load_rewards(RewardSpec([f"{path}:trl", f"{path}:one"]))(ASKED).reward == 1.0
    assert load(f"{path}:trl")(ASKED).detail == {"error": "returned None, not a number"}


def test_whatever_is_awaitable_is_awaited(write):
    path = write(
        "class Judge:\n    async def __call__(self, **k): return 0.75\njudge = Judge()\n"
        "def plain(f): return lambda **k: f(**k)\n@plain\nasync def wrapped(**k): return 0.5\n"
    )
    assert (reward_of(f"{path}:judge"), reward_of(f"{path}:wrapped")) == (0.75, 0.5)


def test_no_reward_is_refused():
    with pytest.raises(RewardError, match=r"^--reward must name at least one reward; it names none\."):
        load_rewards(RewardSpec([]))
