"""The fixed random map S that every sketch of a run goes through.

TensorSketch (Pham and Pagh, 2013) of each module's weight gradient, summed over modules. For a
module with outputs ``o`` and inputs ``i``, entry ``G[o, i]`` is added, with the sign
``s1(o) s2(i)``, into bucket ``(offset + (o + i) mod n) mod K``. The signs and the offset are random;
the hashes themselves are contiguous, so that a sketch needs no scatter. The random offset is what
keeps modules from crowding into the first buckets.

A module has n <= K buckets to itself, fewer the more modules there are: they mostly collide with
one another, and transforms of n points cost less (`buckets_per_module`).

Invariant: S depends on (module name, shape, number of modules, seed, K) alone, never on device,
dtype, batch, process or row order. ``E<Sx, Sy> = <x, y>``, with an error of about ``|x||y|/sqrt(K)``.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.sketches.modules import FusedModule, GradientSpace

MODULES_PER_SHARE = 40
SIZE_STEP = 16


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
        buckets: How many of them the module can reach (n).
        output_signs: s1, one of ±1 for each output feature.
        input_signs: s2, one of ±1 for each input feature.
        offset: Where the module's first bucket lies, in [0, K).
    """

    dim: int
    buckets: int
    output_signs: Float[Tensor, " O"]
    input_signs: Float[Tensor, " I"]
    offset: int


def project_space(
    projection: Projection, space: GradientSpace, device: torch.device
) -> dict[str, ModuleProjection]:
    """Draw S for every fused module of a space, by its name."""
    buckets = buckets_per_module(projection.dim, len(space.modules))
    return {m.name: project_module(projection, m, buckets, device) for m in space.modules}


def project_module(
    projection: Projection, module: FusedModule, buckets: int, device: torch.device
) -> ModuleProjection:
    """Draw S for one fused module, the same on every machine."""
    rng = _generator(projection.seed, module)
    offset = int(rng.integers(projection.dim))
    return ModuleProjection(
        dim=projection.dim,
        buckets=buckets,
        output_signs=_signs(rng, module.out_features).to(device),
        input_signs=_signs(rng, module.in_features).to(device),
        offset=offset,
    )


def buckets_per_module(dim: int, modules: int) -> int:
    """Return n, about K / (1 + L/40) for L modules.

    Of the squared error 1/K of a cosine, collisions within a module make up the share that its
    gradients have of both lengths, ``sum_m e[m] f[m]``, which is c/L with c = 1 where all modules
    have the same. n buckets instead of K multiply that share by K/n, and so the squared error by
    1 + c/40, however many modules there are. Measured (dev/LOG.md): c = 3.4 to 4.6.
    """
    return fast_size(math.ceil(dim / (1 + modules / MODULES_PER_SHARE)), dim)


def fast_size(needed: int, limit: int) -> int:
    """Return the smallest multiple of 16 at or above ``needed`` that FFTs are fast for, at most ``limit``."""
    candidates = range(-(-needed // SIZE_STEP) * SIZE_STEP, limit, SIZE_STEP)
    return next((size for size in candidates if _is_smooth(size)), limit)


def _is_smooth(size: int) -> bool:
    """Tell whether a size has no prime factor above 5."""
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size == 1


def _generator(seed: int, module: FusedModule) -> np.random.Generator:
    identity = f"{seed}/{module.name}/{module.out_features}x{module.in_features}"
    key = hashlib.blake2b(identity.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


def _signs(rng: np.random.Generator, size: int) -> Float[Tensor, " size"]:
    return torch.from_numpy(rng.integers(0, 2, size=size).astype(np.float32) * 2 - 1)
