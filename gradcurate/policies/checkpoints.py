"""Finding a checkpoint on disk and knowing it again.

A model is named by the alias of the demo model, a local folder, a GGUF file, or a Hugging Face id;
each is resolved to a folder first. A folder with ``adapter_config.json`` is a PEFT adapter on top
of a base that is resolved the same way.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from gradcurate.errors import PolicyError, first_line
from gradcurate.policies.digests import files_digest
from gradcurate.policies.gguf import DEMO_ALIAS, converted_gguf, demo_gguf

WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
OPTIMIZER_FILE = "optimizer.pt"
ADAPTER_CONFIG = "adapter_config.json"
IDENTITY_PATTERNS = (*WEIGHT_PATTERNS, "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")


@dataclass(frozen=True)
class Checkpoint:
    """Where a policy's files lie.

    Attributes:
        name: What the user called it.
        folder: Full weights and tokenizer; for an adapter, those of its base.
        adapter: The folder of a PEFT adapter, or None.
    """

    name: str
    folder: Path
    adapter: Path | None = None

    @property
    def own_folder(self) -> Path:
        """Return the folder that the trainer wrote: the adapter's, or that of full weights."""
        return self.adapter or self.folder

    @property
    def tokenizer_folder(self) -> Path:
        """Return the adapter's own tokenizer where it has one, else the base's."""
        if self.adapter is not None and (self.adapter / "tokenizer_config.json").exists():
            return self.adapter
        return self.folder

    def fingerprint(self) -> str:
        """Return a hash of weights, configuration and tokenizer."""
        folders = [self.folder] if self.adapter is None else [self.folder, self.adapter]
        files = {
            file for folder in folders for pattern in IDENTITY_PATTERNS for file in _files(folder, pattern)
        }
        return files_digest(sorted(files))


def find_checkpoint(name: str, option: str = "--model") -> Checkpoint:
    """Resolve what the user called the model with an option.

    Raises:
        PolicyError: Nothing of that name is a checkpoint.
    """
    folder = _folder(name, option)
    if (folder / ADAPTER_CONFIG).exists():
        return Checkpoint(name, _base_folder(name, folder), adapter=folder)
    _require_weights(name, folder)
    return Checkpoint(name, folder)


def _base_folder(name: str, adapter: Path) -> Path:
    """Return the folder of full weights that an adapter is put on."""
    base = _base_name(adapter)
    if not base:
        raise _no_base(name, f"its {ADAPTER_CONFIG} names none")
    if (Path(base) / ADAPTER_CONFIG).exists():
        raise _no_base(name, f"{base} is an adapter itself")
    try:
        folder = _folder(base, ADAPTER_CONFIG)
        _require_weights(base, folder)
    except PolicyError as error:
        raise _no_base(name, error.received) from error
    return folder


def _base_name(adapter: Path) -> str | None:
    try:
        settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return None
    return str(settings.get("base_model_name_or_path") or "") if isinstance(settings, dict) else None


def _no_base(name: str, received: str) -> PolicyError:
    return PolicyError(
        f"The adapter {name} needs the full weights of its base",
        received,
        f"Correct base_model_name_or_path in its {ADAPTER_CONFIG}, or give a merged checkpoint.",
    )


def _folder(name: str, option: str) -> Path:
    path = Path(name)
    if name == DEMO_ALIAS and not path.exists():
        return converted_gguf(demo_gguf())
    if path.is_dir():
        return path
    if path.is_file() and path.suffix == ".gguf":
        return converted_gguf(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PolicyError(
            f"{option} must be a checkpoint folder, a .gguf file, a Hugging Face id or smollm2-135m",
            f"{name} is {'a file of another kind' if path.exists() else 'not there'}",
            "Check the path.",
        )
    return _download(name, option)


def _download(name: str, option: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(IDENTITY_PATTERNS)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise PolicyError(
            f"{option} must be a checkpoint folder, a .gguf file, a Hugging Face id or smollm2-135m",
            f"{name} is no folder here, and the hub says: {first_line(error)}",
            "Check the name, the network, or `hf auth login` for a gated model.",
        ) from error


def _require_weights(name: str, folder: Path) -> None:
    weights = [file for pattern in WEIGHT_PATTERNS for file in _files(folder, pattern)]
    lacking = [
        what
        for what, there in (("config.json", (folder / "config.json").exists()), ("weights", weights))
        if not there
    ]
    if lacking:
        raise PolicyError(
            "A checkpoint folder holds config.json and weights (*.safetensors or *.bin)",
            f"{name} has no {' and no '.join(lacking)}",
            "Give the folder that `save_pretrained` wrote; sharded trainer state must be merged first.",
        )


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return what matches and is a file: no folder, and no link into a pruned cache."""
    return [path for path in folder.glob(pattern) if path.is_file()]
