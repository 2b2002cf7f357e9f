"""The sketcher that a run's settings ask for."""

from dataclasses import replace

from gradcurate.config import Settings
from gradcurate.policies.checkpoints import Checkpoint
from gradcurate.policies.policy import Policy
from gradcurate.sketches.halving import Budget
from gradcurate.sketches.optimizer_state import read_second_moments
from gradcurate.sketches.preconditioner import factor_moments
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.prompt_sharing import require_prompt_sharing
from gradcurate.sketches.sketcher import Sketcher, build_sketcher, preconditioned


def sketcher_for(settings: Settings, checkpoint: Checkpoint, policy: Policy) -> Sketcher:
    """Return the sketcher of a loaded checkpoint.

    Raises:
        PolicyError: The checkpoint does not fit the settings.
    """
    projection = Projection(settings.sketch_dim, settings.sketch_seed)
    patterns = settings.module_patterns
    sketcher = replace(
        build_sketcher(policy.model, projection, settings.kernel, settings.temperature, patterns),
        importance_cap=settings.token_importance_cap,
        recompute=settings.gradient_checkpointing,
        budget=Budget(too_many_tokens=settings.batch_tokens + 1),
    )
    if settings.granularity == "problem":
        require_prompt_sharing(policy.model)
    if settings.precondition == "none":
        return sketcher
    moments = read_second_moments(checkpoint.own_folder, policy.model)
    return preconditioned(sketcher, factor_moments(moments, sketcher.space, policy.model.device))
