"""Users' functions as their trainers call them."""

import pytest

from gradcurate.errors import RewardError
from gradcurate.rewards import RewardRequest
from gradcurate.rewards.styles import in_style

ROW = {"prompt": "gone", "answer": "12", "level": 3}
REQUEST = RewardRequest(
    data_source="sums",
    solution_str="It is 12.",
    ground_truth="12",
    extra_info={"index": 7},
    row=ROW,
    prompt=[{"role": "user", "content": "5 + 7?"}],
    prompt_text="<user>5 + 7?<assistant>",
    raw_completion="It is 12.<eos>",
    prompt_token_ids=[1, 2],
    completion_token_ids=[3, 4, 5],
)
SAID = [{"role": "assistant", "content": "It is 12."}]


def verl(data_source, solution_str, ground_truth, extra_info=None):
    return data_source, solution_str, ground_truth, extra_info


def trl(prompts, completions, level, log_metric, **others):
    log_metric("seen", 1.0)
    return [(prompts, completions, level, others["completion_ids"], others["trainer_state"].global_step)]


def trl_of_completions_alone(completions):
    return [completions]


def openrlhf(queries, prompts, labels):
    return {"rewards": [1.0], "scores": [0.5], "extra_logs": {"seen": (queries, prompts, labels)}}


def slime(args, sample, **others):
    return sample.prompt, sample.response, sample.label, sample.metadata, sample.tokens, args.reward_key


def areal(prompt, completions, prompt_ids, completion_ids, answer, **others):
    return prompt, completions, prompt_ids, completion_ids, answer, others


def verifiers(completion, answer, state, level):
    return completion, answer, state["prompt"], level


EXPECTED = {
    verl: ("sums", "It is 12.", "12", {"index": 7}),
    trl: ([REQUEST.prompt], [SAID], [3], [[3, 4, 5]], 0),
    trl_of_completions_alone: [SAID],
    openrlhf: {
        "score": 1.0,
        "scores": 0.5,
        "extra_logs": {
            "seen": (["<user>5 + 7?<assistant>It is 12.<eos>"], ["<user>5 + 7?<assistant>"], ["12"])
        },
    },
    slime: (REQUEST.prompt, "It is 12.", "12", {"index": 7}, [1, 2, 3, 4, 5], None),
    areal: ("<user>5 + 7?<assistant>", "It is 12.", [1, 2], [3, 4, 5], "12", {"level": 3}),
    verifiers: (SAID, "12", REQUEST.prompt, 3),
}


@pytest.mark.parametrize("function", EXPECTED, ids=lambda function: function.__name__)
def test_a_function_is_recognised_and_called_as_its_trainer_does(function):
    style = function.__name__.partition("_")[0]
    for given in (None, style):
        assert in_style(function, "f", given, list(ROW))(REQUEST) == EXPECTED[function]


def test_a_named_style_overrules_the_parameters():
    def anything(**arguments):
        return sorted(arguments)

    assert in_style(anything, "f", None, [])(REQUEST) == sorted(
        ["data_source", "solution_str", "ground_truth", "extra_info"]
    )
    assert in_style(anything, "f", "openrlhf", [])(REQUEST) == ["labels", "prompts", "queries"]


def test_text_prompts_get_text_completions():
    request = RewardRequest("s", "12", "12", {}, prompt="5 + 7 =")

    def both(prompts, completions):
        return [(prompts, completions)]

    assert in_style(both, "f", None, [])(request) == (["5 + 7 ="], ["12"])


def refusal(function, style=None, columns=()):
    with pytest.raises(RewardError) as caught:
        in_style(function, "mine.py:f", style, columns)
    return caught.value.args


def test_an_unknown_signature_is_shown_beside_those_supported():
    assert refusal(lambda text, truth: 1.0) == (
        "the reward 'mine.py:f' must have the signature of a trainer's reward",
        "its signature is (text, truth)",
        "Supported are verl (data_source, solution_str, ground_truth, extra_info); "
        "trl (prompts, completions, **columns); openrlhf (queries, prompts, labels); slime (args, sample); "
        "areal (prompt, completions, prompt_ids, completion_ids, **row); "
        "verifiers (prompt, completion, answer, state, ...).",
    )


def test_a_function_that_lacks_what_its_trainer_passes_is_refused():
    def short(data_source, solution_str, ground_truth):
        return 1.0

    assert refusal(short) == (
        "the reward 'mine.py:f' must accept the keywords "
        "(data_source, solution_str, ground_truth, extra_info), as verl passes them",
        "its signature is (data_source, solution_str, ground_truth) "
        "(got an unexpected keyword argument 'extra_info')",
        "Take these, or **kwargs, or name another --reward-style.",
    )


def test_a_column_that_not_every_record_has_is_refused_before_any_is_rewarded():
    assert refusal(trl, columns=["answer"])[1].endswith("(missing a required argument: 'level')")
    in_style(trl, "f", None, None)  # what columns there are is not known
