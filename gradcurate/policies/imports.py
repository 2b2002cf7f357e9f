"""Importing transformers, late and with a clear word where another package breaks it."""

import importlib.metadata
from typing import Any

from gradcurate.errors import PolicyError


def import_transformers() -> Any:
    """Import transformers, which a torchvision made for another torch can break.

    Raises:
        PolicyError: It did.
    """
    try:
        import transformers
        from transformers import AutoModelForCausalLM  # noqa: F401 (resolves the lazy import)
    except (RuntimeError, ImportError) as error:
        if "torchvision" not in str(error):
            raise
        torch = importlib.metadata.version("torch")
        raise PolicyError(
            "transformers must be importable",
            f"the installed torchvision does not fit torch {torch} ({error})",
            "Run `pip uninstall torchvision torchaudio`: gradcurate needs neither.",
        ) from error
    return transformers
