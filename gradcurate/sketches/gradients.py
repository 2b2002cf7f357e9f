"""A fused module's weight gradients for the rows of a batch, and the three things asked of them.

`Factored` holds what the gradient is a product of, and never multiplies it out for a row;
`Formed` holds the gradient of a single rollout, where only autograd can find it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.sketches.kernels import Kernel, formed_buckets
from gradcurate.sketches.projection import ModuleProjection


class ModuleGradients(ABC):
    """The gradients ``G[b]`` (O, I) of one fused module."""

    @abstractmethod
    def buckets(self, kernel: Kernel, projection: ModuleProjection) -> Float[Tensor, "B n"]:
        """Return S applied to each ``G[b]``: the module's own buckets."""

    @abstractmethod
    def along(self, matrix: Float[Tensor, "O I"]) -> Float[Tensor, " B"]:
        """Return ``<G[b], matrix>``, multiplied in the matrix's dtype and summed in float64."""

    @abstractmethod
    def weighted(self, weights: Float[Tensor, " B"]) -> Float[Tensor, "O I"]:
        """Return ``sum_b weights[b] G[b]``."""


@final
@dataclass(frozen=True)
class Factored(ModuleGradients):
    """``G[b] = sum_t d[b, t] a[b, t]^T``.

    Attributes:
        inputs: What the members read.
        output_grads: The gradients of the members' outputs, O features in all.
    """

    inputs: Float[Tensor, "B T I"]
    output_grads: Sequence[Float[Tensor, "B T _"]]

    def buckets(self, kernel: Kernel, projection: ModuleProjection) -> Float[Tensor, "B n"]:
        """Leave the product to the kernel."""
        return kernel.buckets(projection, self.inputs, self.output_grads)

    def along(self, matrix: Float[Tensor, "O I"]) -> Float[Tensor, " B"]:
        """Apply the matrix to the wider side, so that what is left to add up is the narrower."""
        total = torch.zeros(len(self.inputs), dtype=torch.float64, device=self.inputs.device)
        parts = torch.split(matrix, [grads.shape[2] for grads in self.output_grads])
        for grads, part in zip(self.output_grads, parts, strict=True):
            if part.shape[1] > part.shape[0]:
                moved, other = self.inputs.to(part.dtype) @ part.T, grads
            else:
                moved, other = grads.to(part.dtype) @ part, self.inputs
            total += moved.float().mul_(other).sum(2).double().sum(1)
        return total

    def weighted(self, weights: Float[Tensor, " B"]) -> Float[Tensor, "O I"]:
        """Weigh the inputs, and multiply once."""
        repeated = weights.repeat_interleave(self.inputs.shape[1])[:, None]
        weighted = self.inputs.float().flatten(0, 1) * repeated
        return torch.cat([grads.float().flatten(0, 1).T @ weighted for grads in self.output_grads])


@final
@dataclass(frozen=True)
class Formed(ModuleGradients):
    """The gradient of one rollout.

    Attributes:
        gradient: As autograd found it.
    """

    gradient: Float[Tensor, "O I"]

    def buckets(self, kernel: Kernel, projection: ModuleProjection) -> Float[Tensor, "1 n"]:  # noqa: ARG002
        """Add up anti-diagonals: no kernel is needed."""
        return formed_buckets(projection, self.gradient)[None]

    def along(self, matrix: Float[Tensor, "O I"]) -> Float[Tensor, "1"]:
        """Multiply entry by entry, a row at a time in float32."""
        return (self.gradient.float() * matrix).sum(1).double().sum()[None]

    def weighted(self, weights: Float[Tensor, "1"]) -> Float[Tensor, "O I"]:
        """Scale."""
        return self.gradient.float() * weights
