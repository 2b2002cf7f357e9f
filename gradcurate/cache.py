"""What is kept between runs: converted models, and what judges have replied."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return where: $GRADCURATE_CACHE, else the user's cache directory."""
    if chosen := os.environ.get("GRADCURATE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradcurate"
