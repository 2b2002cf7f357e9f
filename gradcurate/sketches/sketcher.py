"""From a batch of rollouts to one sketch per rollout: the gradient pass.

A `Sketcher` holds what does not change over a run. `sketch_batch` runs one forward and backward
pass and, while each module's inputs and output gradients pass by, adds them to the sketches and,
where asked, to the validation direction or to the derivatives along it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.sketches.collector import collecting
from gradcurate.sketches.direction import Direction, directional_derivatives, weighted_gradient
from gradcurate.sketches.kernels import KERNELS, Kernel, KernelName, add_buckets
from gradcurate.sketches.modules import FusedModule, GradientSpace, find_gradient_space
from gradcurate.sketches.projection import ModuleProjection, Projection, project_module
from gradcurate.sketches.score_function import TokenBatch, backward_score_functions


@dataclass(frozen=True)
class Sketcher:
    """A frozen model, its gradient space, the map S into K buckets over it, and how rollouts were sampled."""

    model: Any
    space: GradientSpace
    dim: int
    projections: dict[str, ModuleProjection]
    kernel: Kernel
    temperature: float


@dataclass(frozen=True)
class BatchGradients:
    """What a gradient pass leaves of each rollout of a batch.

    Attributes:
        logprobs: The completion's log-probability, summed over its tokens.
        sketches: S applied to the score function, float32.
        directional: ``<g, v>`` in float64, or None where no direction was given.
    """

    logprobs: Float[Tensor, " B"]
    sketches: Float[Tensor, "B K"]
    directional: Float[Tensor, " B"] | None


def build_sketcher(
    model: Any, projection: Projection, kernel: KernelName = "fft", temperature: float = 1.0
) -> Sketcher:
    """Freeze the model and draw S over its gradient space."""
    model.requires_grad_(False)
    space = find_gradient_space(model)
    projections = {m.name: project_module(projection, m, model.device) for m in space.modules}
    return Sketcher(model, space, projection.dim, projections, KERNELS[kernel](), temperature)


def sketch_batch(
    sketcher: Sketcher,
    batch: TokenBatch,
    *,
    along: Direction | None = None,
    onto: Direction | None = None,
    weights: Float[Tensor, " B"] | None = None,
) -> BatchGradients:
    """Sketch every rollout of a batch.

    Args:
        sketcher: Model and projection.
        batch: The rollouts' tokens.
        along: A direction v whose ``<g, v>`` is wanted for each rollout.
        onto: A direction to which ``sum_b weights[b] g[b]`` is added in place.
        weights: The weights of ``onto``.
    """
    rows, device = len(batch.lengths), batch.input_ids.device
    sketches = torch.zeros(rows, sketcher.dim, device=device)
    directional = torch.zeros(rows, dtype=torch.float64, device=device)

    def consume(fused: FusedModule, inputs: Tensor, grads: list[Tensor]) -> None:
        projection = sketcher.projections[fused.name]
        add_buckets(sketches, sketcher.kernel.buckets(projection, inputs, grads), projection.offset)
        if along is not None:
            directional.add_(directional_derivatives(along[fused.name], inputs, grads))
        if onto is not None and weights is not None:
            onto[fused.name] += weighted_gradient(inputs, grads, weights)

    with collecting(sketcher.model, sketcher.space, consume):
        logprobs = backward_score_functions(sketcher.model, batch, sketcher.temperature)
    return BatchGradients(logprobs, sketches, directional if along is not None else None)
