"""(d) How faithful sketches are, by K, by what is stored, and beside the output layer alone.

    python benchmarks/dimensions.py

The demo's questions in a chat, those with a score, their rollouts sketched once, the exact cosine with the
validation gradient by autograd. ``score`` is the exact numerator over the sketched norm, as the
product ranks; ``sketched cosine`` uses sketches on both sides. Stored rows have unit length.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from exact_cosines import exact_cosines
from material import CPU, chat_rollouts, chat_run, demo_policy
from measuring import write_table

from gradcurate.scores.ranks import spearman
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.collector import collecting
from gradcurate.sketches.direction import Direction, load_direction, norm
from gradcurate.sketches.gradients import ModuleGradients
from gradcurate.sketches.kernels import Fft, add_buckets
from gradcurate.sketches.live_rollouts import LiveRollout
from gradcurate.sketches.live_sketches import lay_out
from gradcurate.sketches.modules import FusedModule
from gradcurate.sketches.projection import Projection, project_space
from gradcurate.sketches.score_function import backward_score_functions
from gradcurate.sketches.sketcher import Sketcher, build_sketcher, sketch_batch

DIMENSIONS = (512, 1024, 2048, 4096, 8192, 16384)
SEEDS = (0, 1)
BATCH_TOKENS = 1024
Maps = list[tuple[int, int]]
Rows = dict[tuple[str, int], np.ndarray]
STORED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda row: row,
    "float16": lambda row: (
        (row / np.linalg.norm(row)).astype(np.float16).astype(np.float32) * np.linalg.norm(row)
    ),
}


def sketch_all(
    sketcher: Sketcher, maps: Maps, rollouts: Sequence[LiveRollout], along: Direction | None
) -> tuple[dict[tuple[int, int], Rows], dict[tuple[str, int], float]]:
    """Sketch rollouts through several maps (K, seed) in one pass; also their derivatives."""
    kernel = Fft()
    spaces = {m: project_space(Projection(*m), sketcher.space, CPU) for m in maps}
    rows: dict[tuple[int, int], Rows] = {m: {} for m in maps}
    directional: dict[tuple[str, int], float] = {}
    for batch in cut_batches(rollouts, lambda r: r.tokens, lambda r: r.identity, BATCH_TOKENS):
        sketches = {m: torch.zeros(len(batch), m[0]) for m in maps}
        derivatives = torch.zeros(len(batch), dtype=torch.float64)

        def consume(
            fused: FusedModule,
            gradients: ModuleGradients,
            sketches: Any = sketches,
            derivatives: Any = derivatives,
        ) -> None:
            for m, projections in spaces.items():
                projection = projections[fused.name]
                add_buckets(sketches[m], gradients.buckets(kernel, projection), projection.offset)
            if along is not None:
                derivatives += gradients.along(along[fused.name])

        tokens = lay_out(batch, sketcher.model).tokens
        with collecting(sketcher.model, sketcher.space, consume):
            backward_score_functions(sketcher.model, tokens, sketcher.temperature, sketcher.chunked_head)
        for number, r in enumerate(batch):
            directional[r.identity] = derivatives[number].item()
            for m in maps:
                rows[m][r.identity] = sketches[m][number].numpy()
    return rows, directional


def problem_sums(rows: Rows, rollouts: Sequence[LiveRollout], stored: str) -> dict[str, np.ndarray]:
    """Return each problem's weighted sum of stored rows."""
    sums: dict[str, Any] = {}
    for r in rollouts:
        sums[r.problem_id] = sums.get(r.problem_id, 0.0) + r.weight * STORED[stored](rows[r.identity])
    return sums


def fidelity(found: dict[str, float], exact: dict[str, float]) -> tuple[str, str]:
    """Return Spearman and rmse."""
    left, right = (np.array([values[p] for p in exact]) for values in (found, exact))
    return f"{spearman(left, right):.4f}", f"{np.sqrt(((left - right) ** 2).mean()):.4f}"


def main() -> None:
    """Measure every K, seed and storage."""
    exact, pool, validation = exact_cosines(), chat_rollouts(), chat_rollouts("validation")
    sketcher = build_sketcher(demo_policy().model, Projection(64))
    direction = load_direction(chat_run().direction, sketcher.space, CPU)
    maps = [(dim, seed) for dim in DIMENSIONS for seed in SEEDS]
    aim, _ = sketch_all(sketcher, maps, validation, None)
    rows, directional = sketch_all(sketcher, maps, pool, direction)
    dots: dict[str, float] = {}
    for r in pool:
        dots[r.problem_id] = dots.get(r.problem_id, 0.0) + r.weight * directional[r.identity]
    table = []
    for dim, seed in maps:
        for stored in STORED:
            sums = problem_sums(rows[dim, seed], pool, stored)
            target = sum(problem_sums(aim[dim, seed], validation, stored).values())
            lengths = {p: float(np.linalg.norm(s)) for p, s in sums.items()}
            cosines = {
                p: float(s @ target) / (lengths[p] * float(np.linalg.norm(target))) for p, s in sums.items()
            }
            scores = {p: dots[p] / (lengths[p] * norm(direction)) for p in sums}
            table.append(
                [dim, seed, stored, f"{dim**-0.5:.4f}", *fidelity(cosines, exact), *fidelity(scores, exact)]
            )
    table.append(
        [
            "output layer alone",
            "",
            "exact",
            "",
            *fidelity(output_layer_cosines(pool, validation), exact),
            "",
            "",
        ]
    )
    write_table(
        "dimensions",
        ["K", "seed", "stored", "1/√K", "sketched cosine: Spearman", "rmse", "score: Spearman", "rmse"],
        table,
    )


def output_layer_cosines(pool: Sequence[LiveRollout], validation: Sequence[LiveRollout]) -> dict[str, float]:
    """Return the cosines of output-layer gradients alone, with exact numerators and norms of K=16384."""
    sketcher = build_sketcher(demo_policy().model, Projection(16384), modules=["lm_head"])
    weights = torch.tensor([r.weight for r in validation])
    direction = {m.name: torch.zeros(m.out_features, m.in_features) for m in sketcher.space.modules}
    sketch_batch(sketcher, lay_out(validation, sketcher.model).tokens, onto=direction, weights=weights)
    found = sketch_batch(sketcher, lay_out(pool, sketcher.model).tokens, along=direction)
    sums: dict[str, Any] = {}
    dots: dict[str, float] = {}
    for r, sketch, along in zip(pool, found.sketches, found.directional.tolist(), strict=True):
        sums[r.problem_id] = sums.get(r.problem_id, 0) + r.weight * sketch
        dots[r.problem_id] = dots.get(r.problem_id, 0.0) + r.weight * along
    return {p: dots[p] / (sums[p].norm().item() * norm(direction)) for p in dots}


if __name__ == "__main__":
    main()
