"""Two kernels for one linear map: from a module's inputs and output gradients to K buckets.

The weight gradient of a rollout is ``G = sum_t d_t a_t^T``. Both kernels add ``S G`` for one fused
module and one rollout, and they test each other:

- `fft` never forms G. A sum over anti-diagonals of an outer product is a convolution, so it
  multiplies Fourier transforms; its result stays in the frequency domain, where a rollout needs
  one inverse transform for all of its modules.
- `outer` forms G and adds its anti-diagonals.

All arithmetic is float32, whatever the dtype of the model.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gradcurate.sketches.projection import ModuleProjection

KernelName = Literal["fft", "outer"]

TOKENS_PER_TRANSFORM = 256  # bounds the buffers of `fft` (2 x 256 x K/2 complex64: 8 MB at K=4096)

Kernel = Callable[[ModuleProjection, Tensor, Tensor], Tensor]


def fft(
    projection: ModuleProjection, inputs: Float[Tensor, "T I"], output_grads: Float[Tensor, "T O"]
) -> Complex[Tensor, " bins"]:
    """Return the spectrum of one rollout's sketch of one module, by FFT."""
    spectrum = torch.zeros_like(projection.phase)
    for start in range(0, len(inputs), TOKENS_PER_TRANSFORM):
        chunk = slice(start, start + TOKENS_PER_TRANSFORM)
        left = _spectrum(output_grads[chunk].float() * projection.output_signs, projection.dim)
        right = _spectrum(inputs[chunk].float() * projection.input_signs, projection.dim)
        spectrum += left.mul_(right).sum(0)
    return spectrum * projection.phase


def outer(
    projection: ModuleProjection, inputs: Float[Tensor, "T I"], output_grads: Float[Tensor, "T O"]
) -> Complex[Tensor, " bins"]:
    """Return the spectrum of one rollout's sketch of one module, by its explicit weight gradient."""
    grad = (output_grads.float() * projection.output_signs).T @ (inputs.float() * projection.input_signs)
    return _spectrum(_antidiagonal_sums(grad), projection.dim) * projection.phase


KERNELS: dict[KernelName, Kernel] = {"fft": fft, "outer": outer}


def sketch_from_spectrum(spectrum: Complex[Tensor, "*rows bins"], dim: int) -> Float[Tensor, "*rows K"]:
    """Return the K buckets of summed spectra."""
    buckets: Tensor = torch.fft.irfft(spectrum, n=dim)
    return buckets


def _spectrum(rows: Float[Tensor, "*T n"], dim: int) -> Complex[Tensor, "*T bins"]:
    """Return the transform of each row, its indices taken modulo ``dim``.

    rfft(n=dim) pads a short row by itself, but would cut a long one off silently.
    """
    size = rows.shape[-1]
    if size > dim:
        folds = -(-size // dim)
        rows = torch.nn.functional.pad(rows, (0, folds * dim - size))
        rows = rows.reshape(*rows.shape[:-1], folds, dim).sum(-2)
    spectrum: Tensor = torch.fft.rfft(rows, n=dim)
    return spectrum


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
