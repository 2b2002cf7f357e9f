"""A rollout: one sampled completion, with the reward it earned.

``sampling_logprobs`` are those of the sampled tokens at the sampling temperature, before top-p
cuts the distribution; null where an engine does not tell. A reward that could not be computed is null,
and ``reward_detail`` says why. ``provenance`` is ``sampled`` where the tokens are an engine's own, ``tokens``
where they are a trainer's, and ``text`` where text was cut into tokens again.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from gradcurate.problems.problem import Split

FinishReason = Literal["stop", "length"]
Provenance = Literal["sampled", "tokens", "text"]

ROLLOUTS_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("rollout", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("sampling_logprobs", pa.list_(pa.float32())),
        pa.field("reward", pa.float64()),
        pa.field("reward_detail", pa.string(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("provenance", pa.string(), nullable=False),
    ]
)

REWARDS_SCHEMA = pa.schema(
    [ROLLOUTS_SCHEMA.field(name) for name in ("problem_id", "rollout", "split", "reward", "reward_detail")]
)
"""Of rewards that stand for those in the rollouts' own rows."""


@dataclass(frozen=True)
class Completion:
    """What the policy answered.

    Attributes:
        token_ids: The response's tokens, its end-of-sequence token included.
        logprobs: The log-probability of each of them, or None if the engine does not tell.
        finish_reason: ``stop`` if the policy ended the response, ``length`` if the limit did.
        provenance: Whether the tokens are the engine's own.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    provenance: Provenance = "sampled"


@dataclass(frozen=True)
class PromptedProblem:
    """A problem as the policy is asked it."""

    problem_id: str
    split: Split
    prompt_token_ids: tuple[int, ...]
