"""Rank reinforcement-learning problems for language models by gradient alignment (GradAlign).

The verbs of the command line, as functions::

    import gradcurate

    gradcurate.score(pool="pool.jsonl", validation="validation.jsonl", model="my/checkpoint", run="runs/1")
    gradcurate.select("runs/1", top_k=500, format="verl", out="data/round-1")
"""

from gradcurate.api import audit, inspect, rescore, reward, rollout, score, select, sketch, summary, verify
from gradcurate.errors import GradcurateError

__version__ = "0.1.0"

__all__ = [
    "GradcurateError",
    "__version__",
    "audit",
    "inspect",
    "rescore",
    "reward",
    "rollout",
    "score",
    "select",
    "sketch",
    "summary",
    "verify",
]
