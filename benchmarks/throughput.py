"""(e) Throughput and memory against pool size and sequence length.

    python benchmarks/throughput.py

Random tokens on SmolLM2-135M through the product's own stage, shards included, each line a process
of its own: time grows with tokens, memory not with the pool.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from material import BATCH_TOKENS, demo_policy
from measuring import in_own_process, peak_mebibytes, write_table

from gradcurate.progress import Silent
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.direction import norm, save_direction
from gradcurate.sketches.direction_record import DirectionRecord
from gradcurate.sketches.live_rollouts import LiveRollout
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher
from gradcurate.sketches.stage import SketchStage, run_pool_sketches

CASES = [(200, 24), (2000, 24), (50, 96), (100, 96), (200, 96), (40, 256), (20, 512), (10, 1024)]


def random_rollouts(count: int, tokens: int) -> list[LiveRollout]:
    """Return rollouts of random tokens, half prompt and half completion."""
    rng = np.random.default_rng(0)
    half = tokens // 2
    drawn = rng.integers(0, 49152, (count, tokens)).tolist()
    return [
        LiveRollout(f"p{number}", 0, "pool", row[:half], row[half:], 1.0) for number, row in enumerate(drawn)
    ]


def measure(count: int, tokens: int) -> None:
    """Print the time and the peak memory of one case, as JSON."""
    sketcher = build_sketcher(demo_policy().model, Projection(4096))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "validation").mkdir()
        direction = {m.name: torch.randn(m.out_features, m.in_features) for m in sketcher.space.modules}
        path = run / "validation" / "direction.safetensors"
        save_direction(direction, sketcher.space, path, DirectionRecord(norm(direction), 1, {}))
        del direction
        stage = SketchStage(lambda: sketcher, run / "sketches", path, {})
        rollouts = random_rollouts(count, tokens)
        batches = cut_batches(rollouts, lambda r: r.tokens, lambda r: r.identity, BATCH_TOKENS)
        started = time.perf_counter()
        run_pool_sketches(stage, batches, Silent())
        taken = time.perf_counter() - started
    print(json.dumps({"seconds": taken, "peak": peak_mebibytes()}))


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", nargs=2, type=int)
    case = parser.parse_args().case
    if case:
        measure(*case)
        return
    rows = []
    for count, tokens in CASES:
        found = in_own_process(__file__, "--case", str(count), str(tokens))
        rate = count * tokens / found["seconds"]
        rows.append([count, tokens, f"{found['seconds']:.1f}", f"{rate:.0f}", f"{found['peak']:.0f}"])
    write_table("throughput", ["rollouts", "tokens each", "seconds", "tokens/s", "peak MiB"], rows)


if __name__ == "__main__":
    main()
