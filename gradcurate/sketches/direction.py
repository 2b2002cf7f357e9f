"""The exact validation direction: one dense matrix for each fused module.

A cosine with one known direction needs no projection. With the direction v at hand while the
pool's gradients pass by, ``<g[p, i], v>`` costs one more product a module. On disk it is a
safetensors file of one float32 tensor per weight, under the names and in the shapes of the model's
own; its metadata holds a `DirectionRecord`.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gradcurate.errors import first_line
from gradcurate.sketches.direction_record import RECORD_KEY, DirectionRecord, reading_direction
from gradcurate.sketches.modules import GradientSpace, Member

Direction = dict[str, Tensor]
"""Float32 matrices (O, I) by the name of their fused module."""


def zero_direction(space: GradientSpace, device: torch.device) -> Direction:
    """Return a direction of zeros over the gradient space."""
    return {m.name: torch.zeros(m.out_features, m.in_features, device=device) for m in space.modules}


def norm(direction: Direction) -> float:
    """Return the Euclidean length."""
    return math.sqrt(sum(matrix.double().square().sum().item() for matrix in direction.values()))


def dot(left: Direction, right: Direction) -> float:
    """Return the inner product, summed in float64."""
    return float(sum((left[name].double() * right[name].double()).sum() for name in left))


def weight_parts(direction: Direction, space: GradientSpace) -> Iterator[tuple[Member, Tensor]]:
    """Yield each weight with its part of a direction, in the weight's shape."""
    for fused in space.modules:
        parts = torch.split(direction[fused.name], list(fused.member_features))
        yield from ((m, m.to_weight(part)) for m, part in zip(fused.members, parts, strict=True))


def save_direction(direction: Direction, space: GradientSpace, path: Path, record: DirectionRecord) -> None:
    """Write a direction under the weights' own names.

    Raises:
        OSError: It cannot be written.
    """
    tensors = {m.parameter: part.cpu().contiguous() for m, part in weight_parts(direction, space)}
    try:
        save_file(tensors, path, metadata={RECORD_KEY: json.dumps(asdict(record))})
    except SafetensorError as error:  # a full disk is one, and no OSError
        raise OSError(first_line(error)) from error


def load_direction(path: Path, space: GradientSpace, device: torch.device) -> Direction:
    """Read the tensors that `save_direction` wrote.

    Raises:
        RunDirectoryError: The file is damaged, or not one of gradcurate's.
    """
    with reading_direction(path), safe_open(path, framework="pt", device=str(device)) as file:
        return {
            fused.name: torch.cat([m.to_matrix(file.get_tensor(m.parameter)) for m in fused.members])
            for fused in space.modules
        }
