"""The exact validation direction: one dense matrix for each fused module.

A cosine with one known direction needs no projection. With the direction v at hand while the
pool's gradients pass by, ``<g[p, i], v>`` costs one more product a module. On disk it is a
safetensors file of one float32 matrix per linear module, under the names of the checkpoint's own
weights; its metadata holds a `DirectionRecord`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gradcurate.errors import first_line
from gradcurate.sketches.direction_record import RECORD_KEY, DirectionRecord, reading_direction
from gradcurate.sketches.modules import GradientSpace

Direction = dict[str, Tensor]
"""Float32 matrices (O, I) by the name of their fused module."""


def zero_direction(space: GradientSpace, device: torch.device) -> Direction:
    """Return a direction of zeros over the gradient space."""
    return {m.name: torch.zeros(m.out_features, m.in_features, device=device) for m in space.modules}


def weighted_gradient(
    inputs: Float[Tensor, "B T I"],
    output_grads: Sequence[Float[Tensor, "B T _"]],
    weights: Float[Tensor, " B"],
) -> Float[Tensor, "O I"]:
    """Return one fused module's ``sum_b weights[b] G[b]`` over a batch."""
    weighted = inputs.float().flatten(0, 1) * weights.repeat_interleave(inputs.shape[1])[:, None]
    return torch.cat([grads.float().flatten(0, 1).T @ weighted for grads in output_grads])


def directional_derivatives(
    matrix: Float[Tensor, "O I"],
    inputs: Float[Tensor, "B T I"],
    output_grads: Sequence[Float[Tensor, "B T _"]],
) -> Float[Tensor, " B"]:
    """Return one fused module's ``<G[b], matrix>`` for each rollout, summed in float64.

    The matrix is applied to the wider side, so that what is left to multiply and add is the narrower.
    """
    total = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    for grads, part in zip(
        output_grads, torch.split(matrix, [g.shape[2] for g in output_grads]), strict=True
    ):
        if inputs.shape[2] > grads.shape[2]:
            moved, other = inputs.float() @ part.T, grads
        else:
            moved, other = grads.float() @ part, inputs
        total += moved.mul_(other).sum(2).double().sum(1)
    return total


def norm(direction: Direction) -> float:
    """Return the Euclidean length."""
    return math.sqrt(sum(matrix.double().square().sum().item() for matrix in direction.values()))


def save_direction(direction: Direction, space: GradientSpace, path: Path, record: DirectionRecord) -> None:
    """Write a direction under the checkpoint's own weight names.

    Raises:
        OSError: It cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for fused in space.modules:
        parts = torch.split(direction[fused.name], list(fused.member_features))
        tensors |= {
            f"{name}.weight": part.cpu().contiguous() for name, part in zip(fused.members, parts, strict=True)
        }
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
            fused.name: torch.cat([file.get_tensor(f"{name}.weight") for name in fused.members])
            for fused in space.modules
        }
