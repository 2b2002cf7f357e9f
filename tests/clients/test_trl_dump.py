"""Rollouts that TRL's own trainer wrote, ranked with no sampling."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import gradcurate
from gradcurate.rollouts.engines import transformers_engine
from gradcurate.store.tables import read_table
from tiny_models import tiny_llama, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`\\w*gradient_checkpointing\\w*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def parity(completions, **others):
    return [float(len(completion[0]["content"]) % 2) for completion in completions]


def train(folder):
    """Four rollouts of every problem of the workspace, by a policy that does not move."""
    rows = [
        json.loads(line)
        for file in ("validation.jsonl", "pool.jsonl")
        for line in Path(file).read_text().splitlines()
    ]
    args = GRPOConfig(
        output_dir=str(folder),
        max_steps=len(rows),
        num_generations=4,
        per_device_train_batch_size=4,
        max_completion_length=8,
        learning_rate=0.0,
        log_completions=True,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    prompts = [[{"role": "user", "content": row["question"]}] for row in rows]
    GRPOTrainer(
        tiny_llama(),
        parity,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tiny_tokenizer(),
    ).train()
    return folder / "completions"


def test_a_trl_run_s_completions_are_ranked_without_sampling(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(transformers_engine, "sample_completions", None)
    dump = train(tmp_path / "trained")
    written = [row for file in sorted(dump.iterdir()) for row in pq.read_table(file).to_pylist()]
    summary = gradcurate.score(**workspace, dump=str(dump))
    assert summary.checks.dump == {"matched": len(written), "unmatched": 0, "ambiguous": 0, "unusable": 0}
    assert summary.best
    rollouts = [row for path in Path("runs/1/rollouts").iterdir() for row in read_table(path).to_pylist()]
    assert {row["provenance"] for row in rollouts} == {"text"}
    assert sorted((row["completion"], row["reward"]) for row in rollouts) == sorted(
        (row["completion"][0]["content"], row["parity"]) for row in written
    )
