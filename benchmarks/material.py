"""What the benchmarks run on: the demo model with its own rollouts, and a random wide Llama.

The demo's questions, asked in a chat without examples, are answered in about 40 tokens; essays of about 100,
and of 500 and more, are sampled here, too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import gradcurate
from gradcurate.config import Settings
from gradcurate.policies.checkpoints import find_checkpoint
from gradcurate.policies.policy import Policy, load_policy, load_tokenizer
from gradcurate.results import read_groups, read_rollouts, split_weights
from gradcurate.rollouts.engines.transformers_engine import sample_completions
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.live_rollouts import TOKEN_COLUMNS, LiveRollout, live_rollouts
from gradcurate.sketches.token_batch import TokenBatch, pad_rollouts
from gradcurate.store.manifest import read_manifest
from gradcurate.store.run_directory import RunDirectory

SCRATCH = Path("runs/benchmarks")
CHAT = RunDirectory(SCRATCH / "chat")
EXAMPLE = Path("examples/arithmetic")
CHAT_SETTINGS: dict[str, Any] = {
    "model": "smollm2-135m",
    "system_prompt": "Reply with the number only.",
    "reward": "numeric",
    "rollouts": 8,
    "max_tokens": 48,
}
CPU = torch.device("cpu")
TOPICS = ("a river", "two brothers", "the first train", "a lost key")
GROUP = 4
BATCH_TOKENS = Settings.__dataclass_fields__["batch_tokens"].default  # as the product cuts
Tokens = tuple[Sequence[int], Sequence[int]]


def demo_policy(dtype: str = "float32") -> Policy:
    """Load SmolLM2-135M-Instruct."""
    checkpoint = find_checkpoint("smollm2-135m")
    policy = load_policy(checkpoint, load_tokenizer(checkpoint), dtype, "cpu")
    policy.model.requires_grad_(False)
    return policy


def wide_llama(dtype: str) -> Any:
    """Return a random Llama of hidden size 2048 and two layers."""
    torch.manual_seed(0)
    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 2, "vocab_size": 49152}
    config = LlamaConfig(**shape, num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048)
    return LlamaForCausalLM(config).to(getattr(torch, dtype)).eval().requires_grad_(False)


def chat_run() -> RunDirectory:
    """Score the demo's questions, asked in a chat, once."""
    if not CHAT.scores.exists():
        SCRATCH.mkdir(parents=True, exist_ok=True)
        files = {name: SCRATCH / f"{name}.jsonl" for name in ("pool", "validation")}
        for file in files.values():
            rows = [json.loads(line) for line in (EXAMPLE / file.name).read_text().splitlines()]
            asked = [{**row, "prompt": _question(row["prompt"])} for row in rows]
            file.write_text("".join(json.dumps(row) + "\n" for row in asked))
        gradcurate.score(**CHAT_SETTINGS, **{n: str(f) for n, f in files.items()}, run=str(CHAT.root))
    return CHAT


def _question(prompt: str) -> str:
    return prompt.rpartition("Q: ")[2].removesuffix("\nA:")


def chat_rollouts(split: str = "pool") -> list[LiveRollout]:
    """Return the live rollouts of the questions in a chat, with the weights of their settings."""
    run = chat_run()
    weights = split_weights(read_groups(run), split, read_manifest(run.manifest).settings)
    return live_rollouts(read_rollouts(run, TOKEN_COLUMNS), split, weights)


def sampled_rollouts(tokens: int) -> list[Tokens]:
    """Return essays of the demo model with up to so many tokens beyond a prompt of about 37, sampled once."""
    file = SCRATCH / f"essays-{tokens}.json"
    if not file.exists():
        SCRATCH.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_sample_essays(tokens)))
    return [(prompt, completion) for prompt, completion in json.loads(file.read_text())]


def _sample_essays(tokens: int) -> list[Tokens]:
    policy = demo_policy()
    prompts = [
        list(
            policy.tokenizer.apply_chat_template(
                [
                    {
                        "role": "user",
                        "content": f"Explain step by step how to write a long essay about {topic}.",
                    }
                ],
                add_generation_prompt=True,
                return_dict=False,
            )
        )
        for topic in TOPICS
    ]
    uniforms = np.random.default_rng(0).random((len(prompts), GROUP, tokens), dtype=np.float32)
    completions = sample_completions(policy, prompts, uniforms)
    both = [(prompts[i // GROUP], list(c.token_ids)) for i, c in enumerate(completions)]
    return [(p, c) for p, c in both if c and len(c) >= tokens / 2]


def batches_of(rollouts: Sequence[Tokens], batch_tokens: int) -> list[TokenBatch]:
    """Cut rollouts as the product does."""
    cut = cut_batches(range(len(rollouts)), lambda i: sum(map(len, rollouts[i])), lambda i: i, batch_tokens)
    return [pad_rollouts(*zip(*(rollouts[i] for i in batch), strict=True), CPU) for batch in cut]


def mean_length(rollouts: Sequence[Tokens]) -> float:
    """Return the mean number of tokens, prompt and completion."""
    return sum(len(p) + len(c) for p, c in rollouts) / len(rollouts)
