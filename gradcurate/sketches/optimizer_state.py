"""The second moments of a trainer's Adam: ``optimizer.pt`` of a Hugging Face or TRL checkpoint.

The file numbers its parameters in the order of the trainer's two groups, with weight decay and
without, each in the model's own order. Newer ones name them as well. Shapes must agree either way.
It is read with ``weights_only=True``: nothing in it is run.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import get_parameter_names

from gradcurate.errors import PolicyError, first_line
from gradcurate.policies.checkpoints import OPTIMIZER_FILE
from gradcurate.sketches.discovery import adapter_or_all

WITHOUT_DECAY = ["bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
"""Patterns of names, as ``transformers.Trainer.get_decay_parameter_names`` has them."""


def read_second_moments(folder: Path, model: Any) -> dict[str, Tensor]:
    """Return the second moment of each trained parameter, by its name in the model.

    Raises:
        PolicyError: There is no such file, or it is of another model or optimizer.
    """
    file = folder / OPTIMIZER_FILE
    if not file.is_file():
        raise _unusable(folder, f"it has no {OPTIMIZER_FILE}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        groups, moments = state["param_groups"], state["state"]
        numbers = [number for group in groups for number in group["params"]]
        names = [name for group in groups for name in group.get("param_names", ())]
        found = {number: moments[number]["exp_avg_sq"] for number in numbers}
    except (
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise _unusable(
            folder, f"{OPTIMIZER_FILE} has none: {type(error).__name__}: {first_line(error)}"
        ) from error
    parameters = dict(adapter_or_all(model))
    names = names if set(names) == set(parameters) else _in_trainer_order(model, list(parameters))
    shapes = [tuple(parameters[name].shape) for name in names]
    if shapes != [tuple(moment.shape) for moment in found.values()]:
        raise _unusable(
            folder,
            f"those of {OPTIMIZER_FILE} have other shapes than the {len(names)} parameters of the model",
        )
    return dict(zip(names, found.values(), strict=True))


def _in_trainer_order(model: Any, names: Sequence[str]) -> list[str]:
    decayed = set(get_parameter_names(model, [nn.LayerNorm], WITHOUT_DECAY))
    return [n for n in names if n in decayed] + [n for n in names if n not in decayed]


def _unusable(folder: Path, received: str) -> PolicyError:
    return PolicyError(
        f"--precondition adam needs the second moments of {folder}'s optimizer",
        received,
        "Give a checkpoint that a Hugging Face or TRL trainer wrote with its Adam state.",
    )
