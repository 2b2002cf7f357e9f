"""Where a gradient stopped being a number: asked only after a batch has failed."""

import torch

from gradcurate.sketches.collector import collecting
from gradcurate.sketches.gradients import ModuleGradients
from gradcurate.sketches.modules import FusedModule
from gradcurate.sketches.score_function import backward_score_functions
from gradcurate.sketches.sketcher import Sketcher
from gradcurate.sketches.token_batch import TokenBatch


def first_not_finite(sketcher: Sketcher, batch: TokenBatch) -> str | None:
    """Return the first weight that is not finite, else the first gradient of the backward pass."""
    for name, parameter in sketcher.model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the weight {name}"
    found: list[str] = []

    def consume(fused: FusedModule, gradients: ModuleGradients) -> None:
        buckets = gradients.buckets(sketcher.kernel, sketcher.projections[fused.name])
        if not found and not torch.isfinite(buckets).all():
            found.append(f"the gradient of {fused.name}")

    with collecting(sketcher.model, sketcher.space, consume):
        backward_score_functions(sketcher.model, batch, sketcher.temperature, sketcher.chunked_head)
    return found[0] if found else None
