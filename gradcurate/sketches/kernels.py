"""Two kernels for one linear map: from a module's inputs and output gradients to K buckets.

The weight gradient of a rollout is ``G = sum_t d_t a_t^T``, and a bucket holds the sum of an
anti-diagonal ``o + i = const`` of the signed G, modulo n. Both kernels return these sums for each
row of a batch, counted from the module's own first bucket, and they test each other:

- `Fft` never forms G. Sums over the anti-diagonals of an outer product are a convolution, so it
  multiplies Fourier transforms, which are no longer than the convolution needs (`transform_size`).
- `Outer` forms G and adds its anti-diagonals.

Positions of padding take part: their output gradients are zero, and the model ran on them as well.
All arithmetic is float32, whatever the dtype of the model.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gradcurate.sketches.projection import ModuleProjection, fast_size

KernelName = Literal["fft", "outer"]

TOKENS_PER_BLOCK = {"cpu": 256, "accelerator": 4096}
"""Keeps a block's transforms in cache: four times as many tokens took twice as long (dev/LOG.md)."""


class Kernel(ABC):
    """Computes a module's buckets."""

    @abstractmethod
    def buckets(
        self,
        projection: ModuleProjection,
        inputs: Float[Tensor, "B T I"],
        output_grads: Sequence[Float[Tensor, "B T _"]],
    ) -> Float[Tensor, "B n"]:
        """Return the module's buckets, n or fewer, for each row of a batch.

        Args:
            projection: S on this module.
            inputs: What the module's members read.
            output_grads: The gradients of the members' outputs, O features in all.
        """


@final
class Outer(Kernel):
    """By the explicit weight gradient."""

    def buckets(
        self,
        projection: ModuleProjection,
        inputs: Float[Tensor, "B T I"],
        output_grads: Sequence[Float[Tensor, "B T _"]],
    ) -> Float[Tensor, "B n"]:
        """Form each row's G, and add its anti-diagonals."""
        left = torch.cat(list(output_grads), dim=-1).float()
        rows = zip(left, inputs.float(), strict=True)
        return torch.stack([formed_buckets(projection, d.T @ a) for d, a in rows])


@final
class Fft(Kernel):
    """By Fourier transforms; keeps the buffers that they read."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, int, torch.device], Tensor] = {}

    def buckets(
        self,
        projection: ModuleProjection,
        inputs: Float[Tensor, "B T I"],
        output_grads: Sequence[Float[Tensor, "B T _"]],
    ) -> Float[Tensor, "B n"]:
        """Multiply the transforms of both sides, and add up each row's products."""
        rows, tokens = inputs.shape[:2]
        size = transform_size(projection)
        spectra = torch.zeros(rows, size // 2 + 1, dtype=torch.complex64, device=inputs.device)
        for block in _blocks(rows, tokens, TOKENS_PER_BLOCK["cpu" if inputs.is_cpu else "accelerator"]):
            left, right = (
                [grads[block].flatten(0, 1) for grads in output_grads],
                [inputs[block].flatten(0, 1)],
            )
            product = self._spectrum(left, projection.output_signs, size)
            product.mul_(self._spectrum(right, projection.input_signs, size))
            own = spectra[block[0]]
            own += product.view(len(own), -1, product.shape[1]).sum(1)
        sums: Tensor = torch.fft.irfft(spectra, n=size)
        return sums

    def _spectrum(
        self, parts: Sequence[Float[Tensor, "tokens _"]], signs: Float[Tensor, " width"], size: int
    ) -> Complex[Tensor, "tokens bins"]:
        """Return the transforms of signed tokens, their indices taken modulo ``size``."""
        signal = self._buffer(len(parts[0]), len(signs), size, signs.device)
        at = 0
        for part in parts:
            _write(signal, part, signs[at : at + part.shape[1]], at)
            at += part.shape[1]
        spectrum: Tensor = torch.fft.rfft(signal)
        return spectrum

    def _buffer(self, tokens: int, width: int, size: int, device: torch.device) -> Tensor:
        """Return signals that are zero beyond ``width``."""
        key = (width, size, device)
        if key not in self._buffers or len(self._buffers[key]) < tokens:
            self._buffers[key] = torch.zeros(tokens, size, device=device)
        return self._buffers[key][:tokens]


KERNELS: dict[KernelName, type[Fft] | type[Outer]] = {"fft": Fft, "outer": Outer}


def formed_buckets(projection: ModuleProjection, gradient: Float[Tensor, "O I"]) -> Float[Tensor, " n"]:
    """Return the buckets of a weight gradient that is at hand."""
    signed = gradient.float() * projection.output_signs[:, None] * projection.input_signs
    return _fold(_antidiagonal_sums(signed), projection.buckets)


def add_buckets(sketches: Float[Tensor, "B K"], buckets: Float[Tensor, "B n"], offset: int) -> None:
    """Add a module's buckets to the sketches, the first of them at ``offset``, modulo K."""
    before_end = min(buckets.shape[1], sketches.shape[1] - offset)
    sketches[:, offset : offset + before_end] += buckets[:, :before_end]
    sketches[:, : buckets.shape[1] - before_end] += buckets[:, before_end:]


def transform_size(projection: ModuleProjection) -> int:
    """Return the number of points that a module's transforms need: O + I - 1 or a little more, at most n."""
    needed = len(projection.output_signs) + len(projection.input_signs) - 1
    return fast_size(needed, projection.buckets)


def _blocks(rows: int, tokens: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut a batch into blocks of several whole rows, or of a part of one, of equal size as far as may be."""
    several = max(1, most // tokens)
    part = math.ceil(tokens / math.ceil(tokens / most))
    for row in range(0, rows, several):
        for start in range(0, tokens, part):
            yield slice(row, row + several), slice(start, start + part)


def _write(
    signal: Float[Tensor, "tokens size"],
    part: Float[Tensor, "tokens width"],
    signs: Float[Tensor, " width"],
    at: int,
) -> None:
    """Write signed features into the signal from index ``at`` on, modulo its size.

    The first that come to an index overwrite what was there; later ones are added.
    """
    size, width = signal.shape[1], part.shape[1]
    begin = 0
    while begin < width:
        lap, place = divmod(at + begin, size)
        end = min(width, begin + size - place)
        target = signal[:, place : place + end - begin]
        if lap:
            target.addcmul_(part[:, begin:end].float(), signs[begin:end])
        else:
            target.copy_(part[:, begin:end]).mul_(signs[begin:end])
        begin = end


def _fold(rows: Float[Tensor, "*T width"], size: int) -> Float[Tensor, "*T folded"]:
    """Add up the entries of each row whose indices are equal modulo ``size``; a short row stays as it is."""
    first, *others = torch.split(rows, size, dim=-1)
    if others:
        first = first.clone()
    for part in others:
        first[..., : part.shape[-1]] += part
    return first


def _antidiagonal_sums(grad: Float[Tensor, "O I"]) -> Float[Tensor, " O+I-1"]:
    """Return the sums over o + i = const.

    Rows padded to width O+I and read back with width O+I-1 are each shifted by one more place, so
    that an anti-diagonal becomes a column.
    """
    rows, columns = grad.shape
    if rows > columns:
        return _antidiagonal_sums(grad.T)
    width = rows + columns
    padded = torch.nn.functional.pad(grad, (0, rows)).flatten()
    return padded[: rows * (width - 1)].view(rows, width - 1).sum(0)
