"""Loading a policy: model and tokenizer, ready to sample from and to differentiate.

An adapter stays on top of its base, or is merged into it: then the policy is one plain model.
``trust_remote_code`` is never on, and never asked for: left unset, transformers waits for an answer.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gradcurate.errors import PolicyError, first_line
from gradcurate.policies.checkpoints import Checkpoint
from gradcurate.policies.imports import import_transformers
from gradcurate.policies.stop_tokens import find_stop_token_ids

AdapterUse = Literal["own", "merged"]
TRUST_NO_CODE = {"trust_remote_code": False}


@dataclass(frozen=True)
class Policy:
    """A loaded policy.

    Attributes:
        model: A causal language model in evaluation mode, its weights frozen.
        tokenizer: Its tokenizer.
        stop_token_ids: Tokens that end a response.
    """

    model: Any
    tokenizer: Any
    stop_token_ids: frozenset[int]


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Load a checkpoint's tokenizer.

    Raises:
        PolicyError: The folder has none that can be loaded.
    """
    transformers = import_transformers()
    with _loading(checkpoint, "tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(checkpoint.tokenizer_folder, **TRUST_NO_CODE)


def load_policy(
    checkpoint: Checkpoint, tokenizer: Any, dtype: str, device: str, adapter: AdapterUse = "own"
) -> Policy:
    """Load a checkpoint's weights onto a device; an adapter on top of its base, or merged into it.

    Raises:
        PolicyError: The weights do not load, or fit no causal language model; there is no such device.
    """
    transformers = import_transformers()
    place = resolve_device(device)  # before the weights, which can take minutes
    with _loading(checkpoint, "model"):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, dtype=getattr(torch, dtype), output_loading_info=True, **TRUST_NO_CODE
        )
    _require_all_weights(checkpoint, report["missing_keys"])
    if checkpoint.adapter is not None:
        with _loading(checkpoint, "adapter"):
            model = _put_on(model, checkpoint.adapter, merge=adapter == "merged")
    model.to(place).eval().requires_grad_(False)
    return Policy(model, tokenizer, find_stop_token_ids(checkpoint, tokenizer))


def require_vocabulary(policy: Policy, token_ids: Iterable[int]) -> None:
    """Refuse a tokenizer that is not the model's own: a token without an embedding crashes the model.

    Raises:
        PolicyError: There is such a token.
    """
    rows, largest = policy.model.get_input_embeddings().num_embeddings, max(token_ids)
    if largest >= rows:
        raise PolicyError(
            "The model must have an embedding for every token of the prompts",
            f"it has {rows}, and its tokenizer gives token {largest}",
            "Give the checkpoint its own tokenizer, or resize the model's embeddings.",
        )


def context_tokens(checkpoint: Checkpoint) -> int | None:
    """Return the longest sequence a checkpoint is made for, or None if its configuration does not say.

    Raises:
        PolicyError: The configuration cannot be read.
    """
    transformers = import_transformers()
    with _loading(checkpoint, "configuration"):
        config = transformers.AutoConfig.from_pretrained(checkpoint.folder, **TRUST_NO_CODE)
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def resolve_device(device: str) -> torch.device:
    """Turn ``auto`` into the first GPU, or the CPU where there is none.

    Raises:
        PolicyError: The device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise PolicyError(
            "--device must name a device of this machine",
            f"{device!r}: {first_line(error)}",
            "Use auto, cpu, cuda or cuda:N.",
        ) from error


def resolve_dtype(
    dtype: Literal["auto", "float32", "bfloat16"], device: str
) -> Literal["float32", "bfloat16"]:
    """Turn ``auto`` into the arithmetic that policies are trained in, where the device has it.

    Raises:
        PolicyError: The device does not exist here.
    """
    if dtype != "auto":
        return dtype
    place = resolve_device(device)
    return "bfloat16" if place.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def _put_on(model: Any, adapter: Path, merge: bool) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        # PEFT would go on without the adapter's weights, as the base alone.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        both = PeftModel.from_pretrained(model, adapter)
        return both.merge_and_unload() if merge else both


@contextmanager
def _loading(checkpoint: Checkpoint, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers, safetensors, torch and peft each raise classes of their own
        raise PolicyError(
            f"The {part} of {checkpoint.name} must load with transformers",
            f"{type(error).__name__}: {first_line(error)}",
            "Give the folder that `save_pretrained` wrote, with its tokenizer.",
        ) from error


def _require_all_weights(checkpoint: Checkpoint, missing: Collection[str]) -> None:
    """Refuse weights that transformers fills with random numbers and no more than a warning."""
    if missing:
        raise PolicyError(
            f"{checkpoint.name} must hold every weight of its model",
            f"{len(missing)} are missing, {min(missing)} among them",
            "Give the folder that `save_pretrained` wrote; sharded trainer state must be merged first.",
        )
