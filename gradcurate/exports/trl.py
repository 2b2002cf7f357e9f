"""Problems as TRL's GRPOTrainer loads them (also axolotl and unsloth, which run on it).

Every column but ``prompt`` reaches the reward functions as a keyword argument (TRL's
``trainer/grpo_trainer.py``, `_calculate_rewards`). ``answer`` and ``solution`` are always text, for TRL's
own rewards compare text.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradcurate.exports.arrow import NotedTable, noted_table, text_of
from gradcurate.exports.carried import carried_columns, without_same_prompt
from gradcurate.exports.rows import (
    MESSAGES,
    RANK,
    SCORE,
    PromptFormat,
    SelectedProblem,
    asked_prompt,
    by_rank,
    identity_columns,
    original_record,
)

_BREAKING = frozenset(
    {
        # Passed by the trainer itself: a second keyword argument of the name is a TypeError.
        "completions",
        "prompts",
        # Any value, null too, turns the prompts into multimodal ones.
        "image",
        "images",
        # The trainer's own values take their place without a word.
        "completion_ids",
        "environments",
        "log_extra",
        "log_metric",
        "trainer_state",
    }
)


def trl_table(selected: Sequence[SelectedProblem], prompt_format: PromptFormat) -> NotedTable:
    """Return one row per problem, by rank, with the prompt as the policy was asked."""
    ordered = by_rank(selected)
    problems = [chosen.problem for chosen in ordered]
    records = [without_same_prompt(original_record(problem), problem) for problem in problems]
    own: dict[str, list[Any]] = {
        "prompt": [asked_prompt(problem, prompt_format) for problem in problems],
        "answer": [problem.answer for problem in problems],
        "solution": [
            problem.answer if record.get("solution") is None else text_of(record["solution"])
            for problem, record in zip(problems, records, strict=True)
        ],
        "source": [problem.source for problem in problems],
        **identity_columns(ordered),
    }
    types = {name: pa.string() for name in own} | {RANK: pa.int64(), SCORE: pa.float64()}
    types["prompt"] = MESSAGES if prompt_format == "chat" else pa.string()
    carried = carried_columns(records, own, _BREAKING, "TRL")
    return noted_table(own | carried.columns, types, carried.notes)


def trl_recipe(file: Path, rows: int) -> str:
    """Return how TRL is told to load the file, keep its order, and start it from the first row."""
    return f"""# {file.name} in TRL

{rows} problems, best first. In Python:

```python
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

train_dataset = load_dataset("parquet", data_files={str(file)!r}, split="train")
args = GRPOConfig(shuffle_dataset=False, ...)  # the default shuffles the ranking away
```

With `trl grpo --config`, in the YAML file:

```yaml
datasets:
  - path: parquet
    data_files: {json.dumps(str(file))}
shuffle_dataset: false
```

A reward function gets each column as a list: `def reward(completions, answer, **kwargs)`. It needs the
`**kwargs`.

## Going on from a checkpoint

TRL goes to the row where the old file was left, and so would skip the best rows of this one. Set
`ignore_data_skip=True` (`--ignore_data_skip`) to begin at the first row, and raise `max_steps`: the steps
already done count.
"""
