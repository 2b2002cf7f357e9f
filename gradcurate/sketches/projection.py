"""The fixed random map S that every sketch of a run goes through.

TensorSketch (Pham and Pagh, 2013) of each module's weight gradient, summed over modules. For a
module with outputs ``o`` and inputs ``i``, entry ``G[o, i]`` is added, with the sign
``s1(o) s2(i)``, into bucket ``(offset + o + i) mod K``. The signs and the offset are random; the
hashes themselves are contiguous, so that a sketch needs no scatter. The random offset is what
keeps small modules from crowding into the first buckets.

Invariant: S depends on (module name, shape, seed, K) alone, never on device, dtype, batch,
process or row order. ``E<Sx, Sy> = <x, y>``, with an error of about ``|x||y|/sqrt(K)``.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.sketches.modules import FusedModule


@dataclass(frozen=True)
class Projection:
    """What defines S: the sketch dimension K and the seed."""

    dim: int
    seed: int = 0


@dataclass(frozen=True)
class ModuleProjection:
    """S restricted to one fused module.

    Attributes:
        dim: The sketch dimension K.
        output_signs: s1, one of ±1 for each output feature.
        input_signs: s2, one of ±1 for each input feature.
        offset: Where the module's first bucket lies, in [0, K).
    """

    dim: int
    output_signs: Float[Tensor, " O"]
    input_signs: Float[Tensor, " I"]
    offset: int


def project_module(projection: Projection, module: FusedModule, device: torch.device) -> ModuleProjection:
    """Draw S for one fused module, the same on every machine."""
    rng = _generator(projection.seed, module)
    offset = int(rng.integers(projection.dim))
    return ModuleProjection(
        dim=projection.dim,
        output_signs=_signs(rng, module.out_features).to(device),
        input_signs=_signs(rng, module.in_features).to(device),
        offset=offset,
    )


def _generator(seed: int, module: FusedModule) -> np.random.Generator:
    identity = f"{seed}/{module.name}/{module.out_features}x{module.in_features}"
    key = hashlib.blake2b(identity.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


def _signs(rng: np.random.Generator, size: int) -> Float[Tensor, " size"]:
    return torch.from_numpy(rng.integers(0, 2, size=size).astype(np.float32) * 2 - 1)
