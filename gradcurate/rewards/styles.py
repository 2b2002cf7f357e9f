"""Calling a reward as its trainer calls it, so that the user's function runs unchanged.

A style is named after the trainer, and recognised by the parameters of the function. Trainers that
pass batches get batches of one completion: rewards run in workers, a completion at a time. So a
function that compares the completions of a group with one another sees one of them only.

Sources: verl ``workers/reward_manager/naive.py``; TRL ``trainer/grpo_trainer.py``,
``_calculate_rewards``; OpenRLHF ``utils/remote_rm_utils.py``; slime ``rollout/rm_hub``; AReaL
``workflow/rlvr.py``; verifiers ``rubrics/rubric.py`` (before version 1).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, final

from gradcurate.errors import RewardError
from gradcurate.rewards.request import RewardRequest
from gradcurate.rewards.spec import Style

Arguments = Callable[[RewardRequest], dict[str, Any]]


def _verl(request: RewardRequest) -> dict[str, Any]:
    return {
        "data_source": request.data_source,
        "solution_str": request.solution_str,
        "ground_truth": request.ground_truth,
        "extra_info": request.extra_info,
    }


def _trl(request: RewardRequest) -> dict[str, Any]:
    return {
        **{name: [value] for name, value in request.row.items() if name not in {"prompt", "completion"}},
        "prompts": [request.prompt],
        "completions": [_completion(request)],
        "completion_ids": [request.completion_token_ids],
        "trainer_state": SimpleNamespace(global_step=0, epoch=0.0, max_steps=0),
        "log_extra": _ignore,
        "log_metric": _ignore,
    }


def _openrlhf(request: RewardRequest) -> dict[str, Any]:
    return {
        "queries": [request.prompt_text + request.raw_completion],
        "prompts": [request.prompt_text],
        "labels": [request.ground_truth],
    }


def _slime(request: RewardRequest) -> dict[str, Any]:
    sample = SimpleNamespace(
        prompt=request.prompt,
        response=request.solution_str,
        label=request.ground_truth,
        metadata=request.extra_info,
        tokens=[*request.prompt_token_ids, *request.completion_token_ids],
        response_length=len(request.completion_token_ids),
    )
    return {"args": SimpleNamespace(reward_key=None, custom_rm_path=None, rm_type=None), "sample": sample}


def _areal(request: RewardRequest) -> dict[str, Any]:
    return {
        **{name: value for name, value in request.row.items() if name != "prompt"},
        "prompt": request.prompt_text,
        "completions": request.solution_str,
        "prompt_ids": request.prompt_token_ids,
        "completion_ids": request.completion_token_ids,
    }


def _verifiers(request: RewardRequest) -> dict[str, Any]:
    fields = {
        "prompt": request.prompt,
        "completion": _completion(request),
        "answer": request.ground_truth,
        "task": request.data_source,
        "info": request.row.get("info") or request.extra_info,
    }
    return {**request.row, **fields, "state": {**fields, "metrics": {}, "timing": {}}}


def _completion(request: RewardRequest) -> list[dict[str, str]] | str:
    """Return the completion in the form of the prompt: messages, or text."""
    chat = isinstance(request.prompt, list)
    return [{"role": "assistant", "content": request.solution_str}] if chat else request.solution_str


@final
class _DoesNotApply:
    def __repr__(self) -> str:
        return "None"


DOES_NOT_APPLY = _DoesNotApply()
"""What a TRL function says of a completion by None in its list."""


def _ignore(*_args: Any, **_named: Any) -> None:
    """Stand in for the trainer's logging."""


ARGUMENTS: dict[Style, Arguments] = {
    "verl": _verl,
    "trl": _trl,
    "openrlhf": _openrlhf,
    "slime": _slime,
    "areal": _areal,
    "verifiers": _verifiers,
}
_MARKS: tuple[tuple[Style, frozenset[str]], ...] = (
    ("verl", frozenset({"solution_str"})),
    ("openrlhf", frozenset({"queries"})),
    ("slime", frozenset({"args", "sample"})),
    ("areal", frozenset({"prompt", "completions"})),
    ("trl", frozenset({"completions"})),
    ("trl", frozenset({"completion_ids"})),
    ("trl", frozenset({"prompts"})),
    ("verifiers", frozenset({"completion"})),
)
"""Parameters that only one style has, the most telling first."""

SIGNATURES: dict[Style, str] = {
    "verl": "(data_source, solution_str, ground_truth, extra_info)",
    "trl": "(prompts, completions, **columns)",
    "openrlhf": "(queries, prompts, labels)",
    "slime": "(args, sample)",
    "areal": "(prompt, completions, prompt_ids, completion_ids, **row)",
    "verifiers": "(prompt, completion, answer, state, ...)",
}


FILTERED = frozenset({"trl", "areal", "verifiers"})
"""Styles with columns of the pool among their arguments: a function takes those it names."""


def in_style(
    function: Callable[..., Any], spec: str, style: Style | None, columns: Sequence[str] | None
) -> Callable[[RewardRequest], Any]:
    """Return a function of a request that calls the user's as its trainer does.

    Args:
        function: The user's.
        spec: How the user named it.
        style: Whose signature it has; None: recognised by its parameters.
        columns: What every record of the pool has; None: not known.

    Raises:
        RewardError: It has none of the signatures, or not that of the style.
    """
    signature = inspect.signature(function)
    chosen = style or _recognised(signature, spec)
    arguments = ARGUMENTS[chosen]
    _require_arguments(signature, spec, chosen, columns)

    def reward(request: RewardRequest) -> Any:
        returned = function(**_accepted(signature, chosen, arguments(request)))
        if chosen not in {"trl", "openrlhf"}:
            return returned
        single = _single(returned)
        return DOES_NOT_APPLY if chosen == "trl" and single is None and returned is not None else single

    return reward


def _recognised(signature: inspect.Signature, spec: str) -> Style:
    names = frozenset(signature.parameters)
    for style, marks in _MARKS:
        if marks <= names:
            return style
    if _takes_any(signature):
        return "verl"
    raise RewardError(
        f"the reward {spec!r} must have the signature of a trainer's reward",
        f"its signature is {signature}",
        f"Supported are {'; '.join(f'{style} {text}' for style, text in SIGNATURES.items())}.",
    )


def _require_arguments(
    signature: inspect.Signature, spec: str, style: Style, columns: Sequence[str] | None
) -> None:
    """Refuse a function that needs what it will not be given."""
    row = dict.fromkeys(columns if columns is not None else signature.parameters)
    offered = ARGUMENTS[style](RewardRequest("", "", "", {}, row=row))
    try:
        signature.bind(**_accepted(signature, style, offered))
    except TypeError as error:
        raise RewardError(
            f"the reward {spec!r} must accept the keywords {SIGNATURES[style]}, as {style} passes them",
            f"its signature is {signature} ({error})",
            "Take these, or **kwargs, or name another --reward-style.",
        ) from error


def _takes_any(signature: inspect.Signature) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())


def _accepted(signature: inspect.Signature, style: Style, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if _takes_any(signature) or style not in FILTERED:
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in signature.parameters}


def _single(returned: Any) -> Any:
    """Return what is said of the one completion of a batch: of a list, or of each list in a dict."""
    if isinstance(returned, Mapping):
        return {"score" if name == "rewards" else name: _single(value) for name, value in returned.items()}
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if isinstance(values, list | tuple) and len(values) == 1:
        return values[0]
    return values
