"""Second moments from a checkpoint that TRL's own trainer wrote."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

import gradcurate
from gradcurate.errors import RunDirectoryError
from tiny_models import tiny_llama, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`\\w*gradient_checkpointing\\w*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def train(folder, model, adapter):
    args = GRPOConfig(
        output_dir=str(folder),
        max_steps=2,
        save_steps=2,
        num_generations=2,
        per_device_train_batch_size=4,
        max_completion_length=8,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model,
        lambda completions, **others: [float(number % 2) for number in range(len(completions))],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [f"{n} + {n}?" for n in range(8)]}),
        processing_class=tiny_tokenizer(),
        peft_config=adapter,
    )
    trainer.train()
    return Path(folder, "checkpoint-2")


@pytest.mark.parametrize("kind", ["full weights", "adapter"])
def test_a_trl_checkpoint_gives_adam_s_geometry(workspace, checkpoint, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adapter = LoraConfig(r=4, target_modules="all-linear") if kind == "adapter" else None
    model = str(checkpoint) if adapter else tiny_llama()
    trained = train(tmp_path / "trained", model, adapter)
    settings = workspace | {"model": str(trained), "prompt_format": "text"}
    plain = gradcurate.score(**settings)
    adam = gradcurate.score(**settings | {"run": "runs/2", "precondition": "adam"})
    scores = [
        {row.problem_id: row.score for row in gradcurate.summary(run, top=20).best}
        for run in ("runs/1", "runs/2")
    ]
    assert plain.pool_statuses == adam.pool_statuses
    assert scores[0].keys() == scores[1].keys()
    assert scores[1] != pytest.approx(scores[0], abs=0.02)
    found = gradcurate.verify("runs/2", problems=6)  # against the exact scale of every entry
    assert found.score.rmse < 0.2
    assert json.loads(Path("runs/2/run.json").read_text())["settings"]["precondition"] == "adam"
    shutil.copy(checkpoint / "config.json", trained / "optimizer.pt")
    with pytest.raises(RunDirectoryError, match="optimizer"):
        gradcurate.score(**settings | {"run": "runs/2", "precondition": "adam"})
