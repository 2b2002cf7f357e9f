"""(b) Against the reference algorithm: whole weight gradients, one problem at a time.

    python benchmarks/reference_algorithm.py

GradAlign keeps each problem's whole gradient in memory to take its cosine with the validation
gradient. Both sides get the same rollouts of the demo's first questions and the same direction, in
a process of their own; time is of the gradient passes, memory the most that the process used.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from material import BATCH_TOKENS, CPU, chat_rollouts, chat_run, demo_policy
from measuring import in_own_process, peak_mebibytes, write_table

from gradcurate.scores.ranks import spearman
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.direction import Direction, load_direction, norm
from gradcurate.sketches.live_rollouts import LiveRollout
from gradcurate.sketches.live_sketches import lay_out
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch

PROBLEMS = 12
Cosines = dict[str, float]


def some_rollouts() -> list[LiveRollout]:
    """Return the rollouts of the first problems, by problem."""
    rollouts = sorted(chat_rollouts(), key=lambda r: r.identity)
    ids = list(dict.fromkeys(r.problem_id for r in rollouts))[:PROBLEMS]
    return [r for r in rollouts if r.problem_id in ids]


def by_whole_gradients(model: Any, rollouts: Sequence[LiveRollout], direction: Direction) -> Cosines:
    """Let autograd form every weight's gradient, a problem at a time."""
    space = build_sketcher(model, Projection(64)).space
    for member in space.members:
        model.get_parameter(member.parameter).requires_grad_()
    length, cosines = norm(direction), {}
    for problem_id, group in groupby(rollouts, key=lambda r: r.problem_id):
        members = list(group)
        batch = lay_out(members, model).tokens
        logits = model(input_ids=batch.input_ids, use_cache=False).logits[batch.rows, batch.columns]
        chosen = logits.float().log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        (torch.tensor([r.weight for r in members])[batch.rows] * chosen).sum().backward()
        dot = square = 0.0
        for fused in space.modules:
            parts = direction[fused.name].split(list(fused.member_features))
            for member, part in zip(fused.members, parts, strict=True):
                grad = model.get_parameter(member.parameter).grad
                dot += (grad * part).sum().item()
                square += grad.square().sum().item()
        model.zero_grad()
        cosines[problem_id] = dot / (square**0.5 * length)
    return cosines


def by_sketches(model: Any, rollouts: Sequence[LiveRollout], direction: Direction) -> Cosines:
    """Sketch every rollout, with its derivative along the direction."""
    sketcher, length = build_sketcher(model, Projection(4096)), norm(direction)
    dots: dict[str, float] = {}
    sketches: dict[str, torch.Tensor] = {}
    for batch in cut_batches(rollouts, lambda r: r.tokens, lambda r: r.identity, BATCH_TOKENS):
        tokens = lay_out(batch, model).tokens
        found = sketch_batch(sketcher, tokens, along=direction)
        for r, sketch, along in zip(batch, found.sketches, found.directional.tolist(), strict=True):
            sketches[r.problem_id] = sketches.get(r.problem_id, 0) + r.weight * sketch
            dots[r.problem_id] = dots.get(r.problem_id, 0.0) + r.weight * along
    return {p: dots[p] / (sketches[p].norm().item() * length) for p in dots}


WAYS: dict[str, Callable[..., Cosines]] = {"whole gradients": by_whole_gradients, "sketches": by_sketches}


def measure(way: str) -> None:
    """Print the cosines, the time and the peak memory of one way, as JSON."""
    model, rollouts = demo_policy().model, some_rollouts()
    direction = load_direction(chat_run().direction, build_sketcher(model, Projection(64)).space, CPU)
    WAYS[way](model, rollouts[:8], direction)  # to warm up
    before, started = peak_mebibytes(), time.perf_counter()
    cosines = WAYS[way](model, rollouts, direction)
    taken = time.perf_counter() - started
    tokens = sum(r.tokens for r in rollouts)
    print(
        json.dumps(
            {"cosines": cosines, "seconds": taken, "tokens": tokens, "peak": max(before, peak_mebibytes())}
        )
    )


def main() -> None:
    """Measure both ways and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--way", choices=WAYS)
    way = parser.parse_args().way
    if way:
        measure(way)
        return
    found = {name: in_own_process(__file__, "--way", name) for name in WAYS}
    truth = found["whole gradients"]["cosines"]
    rows = []
    for name, result in found.items():
        rank = spearman(*(torch.tensor([c[p] for p in truth]).numpy() for c in (truth, result["cosines"])))
        rate = result["tokens"] / result["seconds"]
        rows.append([name, f"{rate:.0f}", f"{result['peak']:.0f}", f"{rank:.4f}"])
    write_table("reference", ["by", "tokens/s", "peak MiB", "Spearman to whole gradients"], rows)


if __name__ == "__main__":
    main()
