"""Prompts are rendered as asked, and every response starts where the template says."""

import pytest

from gradcurate.errors import PolicyError, ProblemsError
from gradcurate.policies.prompts import render_prompt, resolve_prompt_format
from gradcurate.problems import Problem
from tiny_models import CHAT_TEMPLATE, tiny_tokenizer

NO_TEMPLATE_REMEDY = (
    "Use an instruct checkpoint, or --prompt-format text, which joins the messages' contents."
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)


def problem(*contents, text=False, roles=("system", "user")):
    messages = zip(roles[-len(contents) :], contents, strict=True)
    prompt = tuple({"role": role, "content": content} for role, content in messages)
    return Problem("p1", "pool", "s", prompt, text, "4", {})


def tokenizer_with(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def decoded(tokenizer, problem, prompt_format):
    return tokenizer.decode(render_prompt(tokenizer, problem, prompt_format))


TEXT, MESSAGES = problem("2 + 2?", text=True), problem("Be brief.", "2 + 2?")


@pytest.mark.parametrize("problems", [[TEXT], [MESSAGES], [TEXT, MESSAGES]])
def test_with_a_template_it_is_chat_unless_text_is_asked_for(problems):
    tokenizer = tiny_tokenizer()
    formats = [resolve_prompt_format(asked, tokenizer, problems) for asked in ("auto", "chat", "text")]
    assert formats == ["chat", "chat", "text"]


def test_without_a_template_only_text_can_be_asked_as_it_is():
    tokenizer = tokenizer_with(None)
    assert resolve_prompt_format("auto", tokenizer, [TEXT]) == "text"
    assert resolve_prompt_format("text", tokenizer, [TEXT, MESSAGES]) == "text"


@pytest.mark.parametrize(
    ("asked", "problems", "who"),
    [
        ("auto", [TEXT, MESSAGES], "Prompts given as messages need"),
        ("chat", [MESSAGES], "--prompt-format chat needs"),
        ("chat", [TEXT], "--prompt-format chat needs"),
    ],
)
def test_messages_without_a_template_are_refused(asked, problems, who):
    with pytest.raises(PolicyError) as caught:
        resolve_prompt_format(asked, tokenizer_with(None), problems)
    assert str(caught.value) == (
        f"{who} a tokenizer with a chat template; this one has none. {NO_TEMPLATE_REMEDY}"
    )


def test_chat_is_the_template_s_rendering_with_the_generation_prompt():
    tokenizer = tiny_tokenizer()
    assert decoded(tokenizer, MESSAGES, "chat") == "<system>Be brief.<eos><user>2 + 2?<eos><assistant>"
    assert render_prompt(tokenizer, TEXT, "chat")[-1] == tokenizer.convert_tokens_to_ids("<assistant>")


def test_text_is_the_contents_alone():
    tokenizer = tiny_tokenizer()
    assert decoded(tokenizer, TEXT, "text") == "2 + 2?"
    newline = tokenizer.unk_token  # the tiny tokenizer's character split skips newlines
    assert decoded(tokenizer, MESSAGES, "text").replace(newline, "").replace("\n", "") == "Be brief.2 + 2?"


def test_a_template_that_refuses_names_the_problem():
    tokenizer = tokenizer_with(NO_SYSTEM + CHAT_TEMPLATE)
    assert decoded(tokenizer, TEXT, "chat") == "<user>2 + 2?<eos><assistant>"
    with pytest.raises(ProblemsError) as caught:
        render_prompt(tokenizer, MESSAGES, "chat")
    assert str(caught.value) == (
        "The chat template must accept every problem's messages; it refuses those of problem p1: "
        "System role not supported. "
        "Some templates know no system role, or want user and assistant to alternate."
    )


def test_a_template_that_renders_nothing():
    with pytest.raises(ProblemsError) as caught:
        render_prompt(tokenizer_with("{{ '' }}"), TEXT, "chat")
    assert str(caught.value) == (
        "Every prompt must have at least one token; that of problem p1 has none. "
        "Look at the tokenizer and its chat template."
    )


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ messages[0].content.nothing.more }}", "{{ 1 + messages }}"]
)
def test_a_template_that_is_broken_is_no_traceback(template):
    with pytest.raises(
        ProblemsError, match=r"^The chat template must accept every problem's messages; "
    ) as caught:
        render_prompt(tokenizer_with(template), TEXT, "chat")
    assert "\n" not in str(caught.value)
