"""Loading a policy: model and tokenizer, ready to sample from and to differentiate.

An adapter is merged into its base, so every policy is one plain model with frozen weights.
``trust_remote_code`` is never on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradcurate.errors import PolicyError
from gradcurate.policies.checkpoints import Checkpoint


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
    transformers = _import_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(checkpoint.tokenizer_folder)
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(checkpoint, "tokenizer", error) from error


def load_policy(checkpoint: Checkpoint, tokenizer: Any, dtype: str, device: str) -> Policy:
    """Load a checkpoint's weights onto a device.

    Raises:
        PolicyError: The weights do not load, or fit no causal language model.
    """
    transformers = _import_transformers()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, dtype=getattr(torch, dtype)
        )
        if checkpoint.adapter is not None:
            model = _merge_adapter(model, checkpoint.adapter)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unloadable(checkpoint, "model", error) from error
    model.to(resolve_device(device)).eval().requires_grad_(False)
    return Policy(model, tokenizer, _stop_token_ids(model, tokenizer))


def context_tokens(checkpoint: Checkpoint) -> int | None:
    """Return the longest sequence a checkpoint is made for, or None if its configuration does not say."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    limit = config.get("max_position_embeddings") or config.get("n_positions")
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
            f"{device!r}: {str(error).splitlines()[0]}",
            "Use auto, cpu, cuda or cuda:N.",
        ) from error


def _merge_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def _stop_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if token is not None)


def _import_transformers() -> Any:
    """Import transformers, which a torchvision made for another torch can break."""
    try:
        import transformers
        from transformers import AutoModelForCausalLM  # noqa: F401 (resolves the lazy import)
    except (RuntimeError, ImportError) as error:
        if "torchvision" not in str(error):
            raise
        raise PolicyError(
            "transformers must be importable",
            f"the installed torchvision does not fit torch {torch.__version__} ({error})",
            "Run `pip uninstall torchvision torchaudio`: gradcurate needs neither.",
        ) from error
    return transformers


def _unloadable(checkpoint: Checkpoint, part: str, error: Exception) -> PolicyError:
    return PolicyError(
        f"{checkpoint.name} must hold a {part} that transformers can load",
        f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
        "Give the folder that `save_pretrained` wrote, with its tokenizer.",
    )
