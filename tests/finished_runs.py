"""Runs of the `workspace` fixture: a finished one to start from, and what a run holds."""

import os
import shutil
from pathlib import Path

import torch

import gradcurate

# The tiny model gains nothing from threads, and on a busy machine theirs spin against each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def finish(settings, tmp_path_factory):
    """Give a workspace its finished run; every workspace has the same files, so one run fits them all."""
    original = tmp_path_factory.getbasetemp() / "finished-run"
    if not original.exists():
        gradcurate.score(**settings)
        shutil.copytree(settings["run"], original)
    else:
        shutil.copytree(original, settings["run"])
    return settings


def flags(settings):
    """Return settings as the command line takes them."""
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def contents(run):
    """Return the bytes of a run's files by path, without the lock and what is under a temporary name."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(Path(run).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
