"""(a) What a sketch costs beside a bare forward and backward pass with frozen weights.

    python benchmarks/overhead.py

The bare pass is transformers' own forward with logits at the predicting positions, cross-entropy,
and a backward pass to the embeddings, on the same batches. Ratios within a repetition, medians
over five.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from material import BATCH_TOKENS, batches_of, demo_policy, mean_length, sampled_rollouts, wide_llama
from measuring import median_ratio, seconds, write_table
from torch.nn.functional import cross_entropy

from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from gradcurate.sketches.token_batch import TokenBatch

REPETITIONS = 5
IGNORED = -100


def bare(model: Any, batch: TokenBatch) -> None:
    """Run forward and backward with frozen weights, as one would write it with transformers."""
    positions, places = torch.unique(batch.columns, return_inverse=True)
    embeddings = model.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda _module, _args, output: output.requires_grad_())
    logits = model(input_ids=batch.input_ids, use_cache=False, logits_to_keep=positions).logits
    handle.remove()
    targets = torch.full(logits.shape[:2], IGNORED)
    targets[batch.rows, places] = batch.targets
    flat = logits.float().flatten(0, 1)
    cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum").backward()


def row(name: str, model: Any, dtype: str, rollouts: Sequence[Any]) -> list[str]:
    """Measure one line of the table."""
    batches = batches_of(rollouts, BATCH_TOKENS)
    sketcher = build_sketcher(model, Projection(4096))
    shapes = {m.name: (m.out_features, m.in_features) for m in sketcher.space.modules}
    along = {name: torch.randn(shape).to(model.dtype) for name, shape in shapes.items()}
    times = seconds(
        {
            "bare": lambda: [bare(model, batch) for batch in batches],
            "sketch": lambda: [sketch_batch(sketcher, batch) for batch in batches],
            "both": lambda: [sketch_batch(sketcher, batch, along=along) for batch in batches],
        },
        REPETITIONS,
    )
    tokens = sum(sum(batch.lengths) for batch in batches)
    return [
        name,
        dtype,
        f"{mean_length(rollouts):.0f}",
        f"{tokens / statistics.median(times['bare']):.0f}",
        f"{tokens / statistics.median(times['sketch']):.0f}",
        f"{median_ratio(times, 'sketch', 'bare'):.2f}",
        f"{median_ratio(times, 'both', 'sketch'):.2f}",
    ]


def main() -> None:
    """Measure both models at both lengths and in both dtypes."""
    rows = []
    for dtype in ("float32", "bfloat16"):
        models = {"SmolLM2-135M": demo_policy(dtype).model, "random Llama, hidden 2048": wide_llama(dtype)}
        for name, model in models.items():
            for rollouts in (sampled_rollouts(tokens=64), sampled_rollouts(tokens=560)[:4]):
                rows.append(row(name, model, dtype, rollouts))
                print(rows[-1], flush=True)
    write_table(
        "overhead",
        ["model", "dtype", "mean tokens", "bare tokens/s", "sketch tokens/s", "sketch / bare",
         "with numerators / sketch"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
