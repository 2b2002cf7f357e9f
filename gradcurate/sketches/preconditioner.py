"""Inner products in the geometry of Adam (``--precondition adam``).

A step of Adam along a problem's gradient g moves the parameters by ``P g`` with
``P = 1 / (sqrt(v) + eps)`` and v the second moments, and so the validation objective by
``<g[V], P g>``. That inner product, and the lengths that go with it, are those of gradients scaled
by ``P^(1/2)``. For hooks, v is approximated by the outer product of its row and column means over
its mean (Shazeer and Stern, 2018), module by module: the scale then is one factor an output and
one an input, and becomes part of the signs of S. The exact oracle scales entry by entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gradcurate.sketches.direction import Direction
from gradcurate.sketches.modules import FusedModule, GradientSpace
from gradcurate.sketches.projection import ModuleProjection

EPSILON = 1e-8  # of Adam, beside sqrt(v)


@dataclass(frozen=True)
class Scales:
    """``P^(1/2)`` of a fused module as an outer product.

    Attributes:
        outputs: One factor a row.
        inputs: One factor a column.
    """

    outputs: Float[Tensor, " O"]
    inputs: Float[Tensor, " I"]


Preconditioner = Mapping[str, Scales]
"""By the name of the fused module."""


def factor_moments(
    moments: Mapping[str, Tensor], space: GradientSpace, device: torch.device
) -> Preconditioner:
    """Return the factored preconditioner of a gradient space."""
    return {fused.name: _factor(stack_moments(moments, fused).to(device)) for fused in space.modules}


def stack_moments(moments: Mapping[str, Tensor], fused: FusedModule) -> Float[Tensor, "O I"]:
    """Return a fused module's second moments."""
    return torch.cat([member.to_matrix(moments[member.parameter].float()) for member in fused.members])


def exact_scales(moments: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """Return ``P^(1/2)``, entry by entry."""
    return (moments.sqrt() + EPSILON).rsqrt()


def _factor(moments: Float[Tensor, "O I"]) -> Scales:
    floor = EPSILON**2  # keeps what was never trained as finite as Adam does
    rows, columns = (moments.mean(1) + floor).sqrt(), (moments.mean(0) + floor).sqrt()
    mean = (moments.mean() + floor).sqrt()
    return Scales(rows.rsqrt(), (columns / mean).rsqrt())


def precondition_projection(projection: ModuleProjection, scales: Scales) -> ModuleProjection:
    """Return S of scaled gradients."""
    return replace(
        projection,
        output_signs=projection.output_signs * scales.outputs,
        input_signs=projection.input_signs * scales.inputs,
    )


def precondition_direction(direction: Direction, preconditioner: Preconditioner) -> Direction:
    """Return ``P v``, so that ``<g, P v>`` is the inner product."""
    return {
        name: matrix * preconditioner[name].outputs.square()[:, None] * preconditioner[name].inputs.square()
        for name, matrix in direction.items()
    }
