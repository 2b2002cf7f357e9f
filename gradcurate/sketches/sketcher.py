"""From a batch of rollouts to one sketch per row: the gradient pass.

A `Sketcher` holds what does not change over a run. `sketch_batch` runs forward and backward and,
while each module's gradients pass by, adds them to the sketches and, where asked, to the
validation direction or to the derivatives along it.

A batch that does not fit in memory is cut in half, and so is every later one of its size. Rows do
not interact, so this changes no result beyond rounding.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.errors import OutOfMemoryError, first_line
from gradcurate.sketches.collector import collecting
from gradcurate.sketches.direction import Direction
from gradcurate.sketches.discovery import find_gradient_space, head_name
from gradcurate.sketches.gradients import ModuleGradients
from gradcurate.sketches.kernels import KERNELS, Kernel, KernelName, add_buckets
from gradcurate.sketches.modules import FusedModule, GradientSpace
from gradcurate.sketches.preconditioner import Preconditioner, precondition_projection
from gradcurate.sketches.projection import ModuleProjection, Projection, project_space
from gradcurate.sketches.score_function import backward_score_functions, logits_are_of_head
from gradcurate.sketches.token_batch import TokenBatch


@final
@dataclass
class Budget:
    """The smallest batch that is cut, in padded tokens: too large for the settings, or for the memory."""

    too_many_tokens: int = sys.maxsize


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
        sketches: S applied to each row's score function, float32.
        directional: ``<g, v>`` in float64, or None where no direction was given.
    """

    token_logprobs: Float[Tensor, " N"]
    logprobs: Float[Tensor, " B"]
    sketches: Float[Tensor, "B K"]
    directional: Float[Tensor, " B"] | None


@dataclass(frozen=True)
class _Wanted:
    """What is computed besides sketches."""

    along: Direction | None
    onto: Direction | None
    weights: Float[Tensor, " B"] | None

    def of_rows(self, start: int, stop: int) -> "_Wanted":
        return replace(self, weights=None if self.weights is None else self.weights[start:stop])


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
    return _sketch(sketcher, batch, _Wanted(along, onto, weights), frozenset())


def _sketch(sketcher: Sketcher, batch: TokenBatch, wanted: _Wanted, summed: frozenset[str]) -> BatchGradients:
    """Sketch at once, or in halves; ``summed`` names modules that are in the direction already."""
    budget, rows = sketcher.budget, len(batch.lengths)
    if rows > 1 and (sketcher.single_rows or batch.padded_tokens >= budget.too_many_tokens):
        return _sketch_halves(sketcher, batch, wanted, summed)
    finished = set(summed)
    try:
        return _pass(sketcher, batch, wanted, finished)
    except RuntimeError as error:  # torch has no other class for it on a CPU
        if not _is_out_of_memory(error):
            raise
        if rows == 1:
            raise OutOfMemoryError(
                f"A rollout of {batch.padded_tokens} tokens must fit in memory with its activations",
                f"it does not: {first_line(error)}",
                "Use --gradient-checkpointing, --dtype bfloat16, or a device with more memory.",
            ) from error
    budget.too_many_tokens = min(budget.too_many_tokens, batch.padded_tokens)
    if batch.input_ids.is_cuda:
        torch.cuda.empty_cache()
    return _sketch_halves(sketcher, batch, wanted, frozenset(finished))


def _sketch_halves(
    sketcher: Sketcher, batch: TokenBatch, wanted: _Wanted, summed: frozenset[str]
) -> BatchGradients:
    rows = len(batch.lengths)
    parts = [
        _sketch(sketcher, batch.slice(start, stop), wanted.of_rows(start, stop), summed)
        for start, stop in ((0, rows // 2), (rows // 2, rows))
    ]
    directional = [part.directional for part in parts if part.directional is not None]
    return BatchGradients(
        token_logprobs=torch.cat([part.token_logprobs for part in parts]),
        logprobs=torch.cat([part.logprobs for part in parts]),
        sketches=torch.cat([part.sketches for part in parts]),
        directional=torch.cat(directional) if directional else None,
    )


def _pass(sketcher: Sketcher, batch: TokenBatch, wanted: _Wanted, finished: set[str]) -> BatchGradients:
    """Run forward and backward once; note in ``finished`` which modules are in the direction."""
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


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
