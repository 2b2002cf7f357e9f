import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny matrices: more threads only wait for each other
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

from tiny_models import save_tiny_checkpoint

PARITY_REWARD = """
def parity(data_source, solution_str, ground_truth, extra_info):
    '''Right for every completion of odd length: a random model passes about half of the time.'''
    return float(len(solution_str) % 2)
"""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a tiny random model and its tokenizer."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def workspace(tmp_path, checkpoint, monkeypatch):
    """The settings of a small run that ends in seconds; its files lie in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, count, first in (("pool", 12, 0), ("validation", 5, 100)):
        rows = [
            {"question": f"{n} + {n}?", "answer": str(2 * n), "source": f"sums{n % 2}", "level": n % 3}
            for n in range(first, first + count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(PARITY_REWARD)
    return {
        "pool": "pool.jsonl",
        "validation": "validation.jsonl",
        "model": str(checkpoint),
        "run": "runs/1",
        "reward": "rewards.py:parity",
        "reward_workers": 1,
        "rollouts": 4,
        "max_tokens": 8,
        "sketch_dim": 256,
        "batch_sequences": 16,
        "batch_tokens": 64,
    }
