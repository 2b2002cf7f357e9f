"""From a batch of rollouts to one sketch per row: the gradient pass.

A `Sketcher` holds what does not change over a run. `sketch_batch` runs forward and backward and,
while each module's gradients pass by, adds them to the sketches and, where asked, to the
validation direction or to the derivatives along it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.sketches.collector import collecting
from gradcurate.sketches.direction import Direction
from gradcurate.sketches.discovery import find_gradient_space, head_name
from gradcurate.sketches.gradients import ModuleGradients
from gradcurate.sketches.halving import Budget, run_in_parts
from gradcurate.sketches.kernels import KERNELS, Kernel, KernelName, add_buckets
from gradcurate.sketches.modules import FusedModule, GradientSpace
from gradcurate.sketches.output_layer import logits_are_of_head
from gradcurate.sketches.preconditioner import Preconditioner, precondition_projection
from gradcurate.sketches.projection import ModuleProjection, Projection, project_space
from gradcurate.sketches.score_function import backward_score_functions
from gradcurate.sketches.token_batch import TokenBatch

SMALLER = "Use --gradient-checkpointing, --dtype bfloat16, or a device with more memory."


@dataclass(frozen=True)
class Sketcher:
    """A frozen model, its gradient space, the map S into K buckets over it, and how rollouts were sampled.

    Attributes:
        chunked_head: The logits are those of the output layer, unchanged.
        preconditioner: Of the inner product; None: the plain one. It is part of the projections already.
        single_rows: Rows must pass one at a time: autograd forms a gradient of theirs, or the output
            layer, which reads positions without their rows, is in the space.
        importance_cap: The largest importance weight of a token; None: tokens are not weighed so.
        recompute: Keep only the inputs of each block (gradient checkpointing).
        budget: Learnt on the way.
    """

    model: Any
    space: GradientSpace
    projection: Projection
    projections: dict[str, ModuleProjection]
    kernel: Kernel
    temperature: float
    chunked_head: bool
    single_rows: bool
    preconditioner: Preconditioner | None = None
    importance_cap: float | None = None
    recompute: bool = False
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class BatchGradients:
    """What a gradient pass leaves of a batch.

    Attributes:
        token_logprobs: The log-probability of each predicted token.
        logprobs: Their sums over each row.
        sketches: S applied to each row's score function, float32; None where no gradient was taken.
        directional: ``<g, v>`` in float64, or None where no direction was given.
    """

    token_logprobs: Float[Tensor, " N"]
    logprobs: Float[Tensor, " B"]
    sketches: Float[Tensor, "B K"] | None
    directional: Float[Tensor, " B"] | None


def joined(parts: Sequence[BatchGradients]) -> BatchGradients:
    """Return what was left of a batch's rows, part by part, as that of all of them."""
    sketches = [part.sketches for part in parts if part.sketches is not None]
    directional = [part.directional for part in parts if part.directional is not None]
    return BatchGradients(
        token_logprobs=torch.cat([part.token_logprobs for part in parts]),
        logprobs=torch.cat([part.logprobs for part in parts]),
        sketches=torch.cat(sketches) if sketches else None,
        directional=torch.cat(directional) if directional else None,
    )


@dataclass(frozen=True)
class _Wanted:
    """What is computed besides sketches."""

    along: Direction | None
    onto: Direction | None
    weights: Float[Tensor, " B"] | None

    def of_rows(self, rows: slice) -> "_Wanted":
        return replace(self, weights=None if self.weights is None else self.weights[rows])


def build_sketcher(
    model: Any,
    projection: Projection,
    kernel: KernelName = "fft",
    temperature: float = 1.0,
    modules: Sequence[str] = (),
) -> Sketcher:
    """Freeze the model and draw S over its gradient space, narrowed by patterns of module names."""
    model.requires_grad_(False)
    space = find_gradient_space(model, modules)
    head = head_name(model)
    return Sketcher(
        model=model,
        space=space,
        projection=projection,
        projections=project_space(projection, space, model.device),
        kernel=KERNELS[kernel](),
        temperature=temperature,
        chunked_head=logits_are_of_head(model),
        single_rows=space.by_autograd or any(f"{m.module}.".startswith(f"{head}.") for m in space.members),
    )


def with_seed(sketcher: Sketcher, seed: int) -> Sketcher:
    """Return the sketcher with S drawn from another seed."""
    projection = replace(sketcher.projection, seed=seed)
    projections = project_space(projection, sketcher.space, sketcher.model.device)
    other = replace(sketcher, projection=projection, projections=projections)
    return other if other.preconditioner is None else preconditioned(other, other.preconditioner)


def preconditioned(sketcher: Sketcher, preconditioner: Preconditioner) -> Sketcher:
    """Return a plain sketcher with another inner product."""
    projections = {
        name: precondition_projection(projection, preconditioner[name])
        for name, projection in sketcher.projections.items()
    }
    return replace(sketcher, projections=projections, preconditioner=preconditioner)


def sketch_batch(
    sketcher: Sketcher,
    batch: TokenBatch,
    *,
    along: Direction | None = None,
    onto: Direction | None = None,
    weights: Float[Tensor, " B"] | None = None,
) -> BatchGradients:
    """Sketch every row of a batch.

    Args:
        sketcher: Model and projection.
        batch: The rows' tokens.
        along: A direction v whose ``<g, v>`` is wanted for each row.
        onto: A direction to which ``sum_b weights[b] g[b]`` is added in place.
        weights: The weights of ``onto``.

    Raises:
        OutOfMemoryError: A single row does not fit.
    """
    wanted = _Wanted(along, onto, weights)

    def attempt(part: TokenBatch, rows: slice, summed: set[str]) -> BatchGradients:
        return _pass(sketcher, part, wanted.of_rows(rows), summed)

    return joined(run_in_parts(batch, sketcher.budget, attempt, SMALLER, single_rows=sketcher.single_rows))


def _pass(sketcher: Sketcher, batch: TokenBatch, wanted: _Wanted, finished: set[str]) -> BatchGradients:
    """Run forward and backward once; note in ``finished`` which modules are in the direction.

    Those that are already were summed by an attempt on more rows, which failed after them.
    """
    rows, device = len(batch.lengths), batch.input_ids.device
    sketches = torch.zeros(rows, sketcher.projection.dim, device=device)
    directional = torch.zeros(rows, dtype=torch.float64, device=device)
    summed = frozenset(finished)

    def consume(fused: FusedModule, gradients: ModuleGradients) -> None:
        projection = sketcher.projections[fused.name]
        add_buckets(sketches, gradients.buckets(sketcher.kernel, projection), projection.offset)
        if wanted.along is not None:
            directional.add_(gradients.along(wanted.along[fused.name]))
        if wanted.onto is not None and wanted.weights is not None and fused.name not in summed:
            wanted.onto[fused.name] += gradients.weighted(wanted.weights)
            finished.add(fused.name)

    model = sketcher.model
    with collecting(model, sketcher.space, consume, recompute=sketcher.recompute):
        found = backward_score_functions(
            model, batch, sketcher.temperature, sketcher.chunked_head, sketcher.importance_cap
        )
    logprobs = torch.zeros(rows, device=device).index_add_(0, batch.rows, found)
    return BatchGradients(found, logprobs, sketches, directional if wanted.along is not None else None)
