"""The exact cosines of the demo's questions in a chat with their validation gradient, kept on disk."""

import json
from itertools import groupby

from material import CPU, SCRATCH, chat_rollouts, chat_run, demo_policy

from gradcurate.sketches.direction import load_direction
from gradcurate.sketches.discovery import find_gradient_space
from gradcurate.sketches.oracle import cosine, exact_gradient


def exact_cosines() -> dict[str, float]:
    """Return each scored problem's cosine, computed once for a demo run."""
    file = SCRATCH / f"exact-{chat_run().direction.stat().st_mtime_ns}.json"
    if not file.exists():
        SCRATCH.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_compute()))
    return json.loads(file.read_text())


def _compute() -> dict[str, float]:
    model = demo_policy().model
    space = find_gradient_space(model)
    direction = load_direction(chat_run().direction, space, CPU)
    rollouts = sorted(chat_rollouts(), key=lambda r: r.identity)
    return {
        problem_id: cosine(
            exact_gradient(model, space, [(r.prompt, r.completion, r.weight) for r in group]), direction
        )
        for problem_id, group in groupby(rollouts, key=lambda r: r.problem_id)
    }
