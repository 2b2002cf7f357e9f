"""From a problem's messages to the token ids that the policy is asked with."""

from collections.abc import Iterable
from typing import Any, Literal

from gradcurate.errors import PolicyError, ProblemsError, first_line
from gradcurate.problems.problem import Problem

PromptFormat = Literal["auto", "chat", "text"]


def resolve_prompt_format(
    asked: PromptFormat, tokenizer: Any, problems: Iterable[Problem]
) -> Literal["chat", "text"]:
    """Decide how prompts are rendered: as asked, else chat where the tokenizer has a template.

    Raises:
        PolicyError: Prompts are messages, or to be rendered as such, and the tokenizer has no template.
    """
    if asked == "text":
        return "text"
    if tokenizer.chat_template:
        return "chat"
    if asked == "chat":
        raise _no_template("--prompt-format chat needs")
    if any(not problem.prompt_is_text for problem in problems):
        raise _no_template("Prompts given as messages need")
    return "text"


def _no_template(who_needs: str) -> PolicyError:
    return PolicyError(
        f"{who_needs} a tokenizer with a chat template",
        "this one has none",
        "Use an instruct checkpoint, or --prompt-format text, which joins the messages' contents.",
    )


def prompt_text(problem: Problem) -> str:
    """Return the contents of a problem's messages, for prompts rendered without a template."""
    return "\n\n".join(message["content"] for message in problem.prompt)


def render_prompt(tokenizer: Any, problem: Problem, prompt_format: Literal["chat", "text"]) -> list[int]:
    """Return the token ids of a problem's prompt, ready for the response to follow.

    Raises:
        ProblemsError: The chat template refuses the messages, or nothing is left of them.
    """
    chat = prompt_format == "chat"
    ids = _chat_ids(tokenizer, problem) if chat else list(tokenizer(prompt_text(problem))["input_ids"])
    if not ids:
        raise ProblemsError(
            "Every prompt must have at least one token",
            f"that of problem {problem.problem_id} has none",
            "Look at the tokenizer and its chat template.",
        )
    return ids


def render_answer(tokenizer: Any, answer: str, prompt: str, end: int | None) -> list[int]:
    """Return the token ids of a reference answer, as a response to its prompt.

    Args:
        tokenizer: The policy's.
        answer: The answer.
        prompt: The end of the prompt.
        end: The token that ends a response in a chat. None: the prompt is plain text, which goes on after the
            answer, and is followed by a space unless it ends in white space.
    """
    gap = " " if end is None and not prompt[-1:].isspace() else ""
    ids = list(tokenizer(gap + answer, add_special_tokens=False)["input_ids"])
    return ids if end is None else [*ids, end]


def _chat_ids(tokenizer: Any, problem: Problem) -> list[int]:
    try:
        return list(
            tokenizer.apply_chat_template(
                list(problem.prompt), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        )
    except Exception as error:  # a template is code of others: besides TemplateError, it raises anything
        raise ProblemsError(
            "The chat template must accept every problem's messages",
            f"it refuses those of problem {problem.problem_id}: {first_line(error)}",
            "Some templates know no system role, or want user and assistant to alternate.",
        ) from error
