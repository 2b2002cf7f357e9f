"""The dumps of five trainers, one reader each.

Sources: verl ``trainer/ppo/ray_trainer.py`` (``_dump_generations``); TRL ``trainer/grpo_trainer.py``
(``log_completions``); NeMo-RL ``algorithms/grpo.py`` (``train_data_step*.jsonl``); open-instruct
``grpo_fast.py`` (``--save_traces``); prime-rl ``rollouts/step_*/train/all/traces.jsonl``. Slime's and
SkyRL's dumps are pickles, which run code when read, and are not read.

A reader takes one record and returns its rollouts: prime-rl keeps several in one line.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from gradcurate.problems.problem import Message
from gradcurate.rollouts.ingest.dumped_rollout import DumpedRollout

DumpFormat = Literal["verl", "trl", "nemo-rl", "open-instruct", "prime-rl"]
Record = Mapping[str, Any]
Reader = Callable[[Record, str], list[DumpedRollout]]

_VERL = frozenset({"input", "output", "gts", "score", "step", "uid", "request_id"})
_TRL = frozenset({"step", "prompt", "completion", "advantage"})


def _read_verl(record: Record, place: str) -> list[DumpedRollout]:
    detail = {name: value for name, value in record.items() if name not in _VERL}
    return [
        DumpedRollout(
            place,
            _text(record["output"]),
            _number(record["score"]),
            prompt_text=_text(record["input"]),
            detail=detail,
        )
    ]


def _read_trl(record: Record, place: str) -> list[DumpedRollout]:
    """Add up the columns of numbers beside the known ones: they are the reward functions."""
    rewards = {
        name: value
        for name, value in record.items()
        if name not in _TRL and isinstance(value, float) and math.isfinite(value)  # NaN does not apply
    }
    prompt, completion = record["prompt"], record["completion"]
    return [
        DumpedRollout(
            place,
            completion if isinstance(completion, str) else _content(completion),
            sum(rewards.values()) if rewards else None,
            problem_id=_id(record.get("problem_id")),
            messages=None if isinstance(prompt, str) else _messages(prompt),
            prompt_text=prompt if isinstance(prompt, str) else None,
            detail=rewards if len(rewards) > 1 else {},
        )
    ]


def _read_nemo_rl(record: Record, place: str) -> list[DumpedRollout]:
    """Unwrap the lists of one, and cut the tokens where the loss mask begins."""
    fields = {name: _unwrapped(value) for name, value in record.items()}
    tokens, mask = fields["token_ids"][: fields["input_lengths"]], fields["token_loss_mask"]
    trained = [place for place, kept in enumerate(mask[: len(tokens)]) if kept]
    if not trained or trained != list(range(trained[0], len(tokens))):
        return [DumpedRollout(place, None, None)]
    logprobs = fields.get("generation_logprobs")
    return [
        DumpedRollout(
            place,
            None,
            _number(fields["rewards"]),
            prompt_token_ids=tokens[: trained[0]],
            completion_token_ids=tokens[trained[0] :],
            logprobs=None if logprobs is None else logprobs[trained[0] : len(tokens)],
        )
    ]


def _read_open_instruct(record: Record, place: str) -> list[DumpedRollout]:
    called = record.get("request_info") or {}
    if any(called.get(name) for name in ("num_calls", "tool_calleds")):  # what tools said is not marked
        return [DumpedRollout(place, None, None)]
    return [
        DumpedRollout(
            place,
            None,
            _number(record["reward"]),
            prompt_token_ids=record["prompt_tokens"],
            completion_token_ids=record["response_tokens"],
            logprobs=record.get("logprobs"),
        )
    ]


def _read_prime_rl(record: Record, place: str) -> list[DumpedRollout]:
    return [_prime_rl_trace(record, trace, place) for trace in record["traces"]]


def _prime_rl_trace(record: Record, trace: Record, place: str) -> DumpedRollout:
    """Return a trace of one sampled message; others have no single response."""
    nodes = trace["nodes"]
    if [bool(node.get("sampled")) for node in nodes] != [False] * (len(nodes) - 1) + [True]:
        return DumpedRollout(place, None, None)
    rewards = trace.get("rewards") or {}
    before, last = nodes[:-1], nodes[-1]
    tokens = [token for node in before for token in node.get("token_ids") or ()]
    own = list(last.get("token_ids") or ())
    mask = list(last.get("mask") or [True] * len(own))
    start = mask.index(True) if any(mask) else 0  # the head of the message is the chat template's
    if len(mask) != len(own) or not all(mask[start:]):
        return DumpedRollout(place, None, None)
    return DumpedRollout(
        place,
        _content([last["message"]]),
        sum(r["score"] * r.get("weight", 1.0) for r in rewards.values()) if rewards else None,
        problem_id=_id((record["task"].get("data") or {}).get("problem_id")),
        messages=_messages([node["message"] for node in before]),
        prompt_token_ids=[*tokens, *own[:start]] if tokens else None,
        completion_token_ids=own[start:] or None,
        logprobs=last.get("logprobs"),
        detail={name: r["score"] for name, r in rewards.items()} if len(rewards) > 1 else {},
    )


READERS: dict[DumpFormat, Reader] = {
    "verl": _read_verl,
    "trl": _read_trl,
    "nemo-rl": _read_nemo_rl,
    "open-instruct": _read_open_instruct,
    "prime-rl": _read_prime_rl,
}
_MARKS: dict[DumpFormat, frozenset[str]] = {
    "verl": frozenset({"input", "output", "score"}),
    "trl": _TRL,
    "nemo-rl": frozenset({"token_ids", "token_loss_mask", "rewards"}),
    "open-instruct": frozenset({"prompt_tokens", "response_tokens", "reward"}),
    "prime-rl": frozenset({"task", "traces"}),
}
"""Fields that only this trainer's records have."""


def recognised(record: Record) -> DumpFormat | None:
    """Return whose record it is."""
    return next((name for name, marks in _MARKS.items() if marks <= record.keys()), None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _id(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _unwrapped(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _messages(messages: Sequence[Record]) -> tuple[Message, ...]:
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def _content(messages: Sequence[Record]) -> str | None:
    """Return the text of a response of one message; None for parts that are no text."""
    content = messages[0]["content"] if len(messages) == 1 else None
    return content if isinstance(content, str) else None
