"""A real training of two steps by TRL on the exported files: a tiny random model, on the CPU, offline."""

from pathlib import Path

import pytest
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from gradcurate.exports.export import write_export
from gradcurate.exports.rows import SelectedProblem
from gradcurate.problems.problem import Problem
from tiny_models import tiny_llama, tiny_tokenizer


def selection(**columns) -> list[SelectedProblem]:
    problems = [
        Problem(
            f"sum-{number}",
            "pool",
            "sums",
            ({"role": "user", "content": f"{number} + {number}?"},),
            False,
            str(2 * number),
            {"question": f"{number} + {number}?", "level": number, **columns},
        )
        for number in range(8)
    ]
    # The last problem of the pool is the first of the ranking.
    return [SelectedProblem(problem, 8 - number, number / 8) for number, problem in enumerate(problems)]


def train(file: Path, folder: Path, reward) -> GRPOTrainer:
    tokenizer = tiny_tokenizer()
    dataset = load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(folder / "cache"))
    args = GRPOConfig(
        output_dir=str(folder / "trained"),
        max_steps=2,
        num_generations=2,
        per_device_train_batch_size=4,
        max_completion_length=8,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(tiny_llama(), reward, args=args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    return trainer


# TRL 1.16 calls what transformers 5.23 has renamed.
@pytest.mark.filterwarnings("ignore:`\\w*gradient_checkpointing\\w*` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "prompt_format", "columns"),
    [
        # What TRL breaks on, unless it goes by another name.
        ("trl", "chat", {"images": None, "completions": ["x"], "prompts": ["x"]}),
        ("trl", "text", {"image": None, "trainer_state": 1}),
        ("verl", "chat", {"images": None}),
    ],
)
def test_trl_trains_on_the_best_rows_first(tmp_path, monkeypatch, name, prompt_format, columns):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen: list[dict] = []

    def reward(completions, answer, problem_id, **others):
        seen.append({"answer": answer, "problem_id": problem_id, **others})
        return [float(number % 2) for number in range(len(completions))]

    made = write_export(name, selection(**columns), prompt_format, tmp_path / "export")
    trainer = train(made.path, tmp_path, reward)

    assert trainer.state.global_step == 2
    assert [step["problem_id"] for step in seen] == [
        ["sum-7", "sum-7", "sum-6", "sum-6"],
        ["sum-5", "sum-5", "sum-4", "sum-4"],
    ]
    assert seen[0]["answer"] == ["14", "14", "12", "12"]
    assert seen[0]["gradcurate_rank"] == [1, 1, 2, 2]
    assert isinstance(seen[0]["prompts"][0], list if prompt_format == "chat" else str)
