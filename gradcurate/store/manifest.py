"""``run.json``: what a run was made with, for people and for later commands.

Rewritten atomically at the start of each command that extends the run. The git state is that of the
user's working directory, kept apart from gradcurate's own version.
"""

import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gradcurate.config import Settings, load_settings
from gradcurate.errors import RunDirectoryError, first_line
from gradcurate.store.atomic import write_json
from gradcurate.store.run_directory import require_stage
from gradcurate.store.tables import SCHEMA_VERSION, Fingerprint

PACKAGES = ("gradcurate", "torch", "transformers", "peft", "datasets", "pyarrow")


@dataclass(frozen=True)
class Manifest:
    """What later commands need of ``run.json``.

    Attributes:
        settings: The resolved settings.
        prompt_format: How prompts were rendered, ``chat`` or ``text``.
        policy: The fingerprint of the checkpoint.
    """

    settings: Settings
    prompt_format: Literal["chat", "text"]
    policy: str


def write_manifest(path: Path, manifest: Manifest, fingerprints: Mapping[str, Fingerprint]) -> None:
    """Write ``run.json``."""
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": asdict(manifest.settings),
            "prompt_format": manifest.prompt_format,
            "policy": manifest.policy,
            "fingerprints": {stage: dict(fingerprint) for stage, fingerprint in fingerprints.items()},
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "git": _git_state(),
        },
    )


def read_manifest(path: Path) -> Manifest:
    """Read ``run.json``.

    Raises:
        RunDirectoryError: There is none, or it is not one of gradcurate's.
    """
    require_stage(path, "gradcurate score")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']} instead of {SCHEMA_VERSION}")
        return Manifest(load_settings(content["settings"]), content["prompt_format"], content["policy"])
    except (ValueError, KeyError, TypeError, OSError) as error:  # SettingsError is a ValueError
        raise RunDirectoryError(
            f"{path} must be one that this version of gradcurate wrote",
            f"it is not: {type(error).__name__}: {first_line(error)}",
            "Choose another --run, or run `gradcurate score` into a new one.",
        ) from error


def _git_state() -> dict[str, Any] | None:
    """Return commit and dirtiness of the working directory's repository, or None outside one."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return None if commit is None else {"commit": commit, "dirty": bool(status)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
