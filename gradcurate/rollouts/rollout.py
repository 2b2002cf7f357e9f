"""A rollout: one sampled completion, with the reward it earned.

``sampling_logprobs`` are those of the sampled tokens at the sampling temperature, before top-p
cuts the distribution. A reward that could not be computed is null, and ``reward_detail`` says why.
``provenance`` is ``sampled`` here, or that of a trainer's dump: its own ``tokens``, or ``text`` that was
cut into tokens again.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from gradcurate.problems.problem import Split

FinishReason = Literal["stop", "length"]

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


@dataclass(frozen=True)
class Completion:
    """What the policy answered.

    Attributes:
        token_ids: The response's tokens, its end-of-sequence token included.
        logprobs: The log-probability of each of them.
        finish_reason: ``stop`` if the policy ended the response, ``length`` if the limit did.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class PromptedProblem:
    """A problem as the policy is asked it."""

    problem_id: str
    split: Split
    prompt_token_ids: tuple[int, ...]
