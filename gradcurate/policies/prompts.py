"""From a problem's messages to the token ids that the policy is asked with."""

from collections.abc import Iterable
from typing import Any, Literal

from jinja2 import TemplateError

from gradcurate.errors import PolicyError, ProblemsError
from gradcurate.problems.problem import Problem

PromptFormat = Literal["auto", "chat", "text"]


def resolve_prompt_format(
    asked: PromptFormat, tokenizer: Any, problems: Iterable[Problem]
) -> Literal["chat", "text"]:
    """Decide how prompts are rendered: chat where the tokenizer has a template, else text.

    Raises:
        PolicyError: Messages or a chat format are asked for, and the tokenizer has no template.
    """
    if tokenizer.chat_template and asked != "text":
        return "chat"
    needs_template = asked == "chat" or any(not problem.prompt_is_text for problem in problems)
    if needs_template and not tokenizer.chat_template:
        raise PolicyError(
            "Prompts given as messages need a tokenizer with a chat template",
            "this tokenizer has none",
            "Use an instruct checkpoint, or give prompts as plain text with --prompt-format text.",
        )
    return "text"


def prompt_text(problem: Problem) -> str:
    """Return the contents of a problem's messages, for prompts rendered without a template."""
    return "\n\n".join(message["content"] for message in problem.prompt)


def render_prompt(tokenizer: Any, problem: Problem, prompt_format: Literal["chat", "text"]) -> list[int]:
    """Return the token ids of a problem's prompt, ready for the response to follow.

    Raises:
        ProblemsError: The chat template refuses the messages.
    """
    if prompt_format == "text":
        return list(tokenizer(prompt_text(problem))["input_ids"])
    try:
        return list(
            tokenizer.apply_chat_template(
                list(problem.prompt), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        )
    except TemplateError as error:
        raise ProblemsError(
            "The chat template must accept every problem's messages",
            f"it refuses those of problem {problem.problem_id}: {error}",
            "Some templates know no system role, or want user and assistant to alternate.",
        ) from error
