"""Problems as verl loads them; OpenRLHF, SkyRL, slime and TRL load the same layout.

The columns are those of verl's ``utils/dataset/rl_dataset.py`` and a flat ``answer``. What a record in
verl's layout says in ``data_source``, ``ability``, ``reward_model`` and ``extra_info`` is kept, and only
what is missing is filled in. ``prompt`` is always messages, since verl renders with the chat template.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gradcurate.exports.arrow import NotedTable, noted_table, one_type_or_text
from gradcurate.exports.carried import carried_columns, without_same_prompt
from gradcurate.exports.rows import (
    MESSAGES,
    RANK,
    SCORE,
    PromptFormat,
    SelectedProblem,
    by_rank,
    identity_columns,
    original_record,
)
from gradcurate.problems.parsing import UNKNOWN_SOURCE
from gradcurate.problems.problem import Problem

_BREAKING = frozenset(
    {
        # Overwritten by RLHFDataset.__getitem__ and the trainer.
        "dummy_tensor",
        "index",
        "interaction_kwargs",
        "raw_prompt",
        "tools_kwargs",
        "uid",
        # Taken out of the row as media.
        "audios",
        "images",
        "videos",
    }
)
_SCORED_AS_TEXT = (
    "The problems were scored with their prompts as plain text, and verl renders prompts with the chat"
    " template: what it trains on is not quite what was scored."
)
_TYPES = {
    "data_source": pa.string(),
    "prompt": MESSAGES,
    "answer": pa.string(),
    "problem_id": pa.string(),
    RANK: pa.int64(),
    SCORE: pa.float64(),
}


def verl_table(selected: Sequence[SelectedProblem], prompt_format: PromptFormat) -> NotedTable:
    """Return one row per problem, by rank; a note says so if verl will render the prompts otherwise."""
    ordered = by_rank(selected)
    problems = [chosen.problem for chosen in ordered]
    records = [without_same_prompt(original_record(problem), problem) for problem in problems]
    own: dict[str, list[Any]] = {
        "data_source": [_data_source(*pair) for pair in zip(problems, records, strict=True)],
        "prompt": [list(problem.prompt) for problem in problems],
        "ability": [_given(record.get("ability"), UNKNOWN_SOURCE) for record in records],
        "reward_model": _reward_models(problems, records),
        "extra_info": _extra_infos(problems, records),
        "answer": [problem.answer for problem in problems],
        **identity_columns(ordered),
    }
    carried = carried_columns(records, own, _BREAKING, "verl")
    notes = (_SCORED_AS_TEXT, *carried.notes) if prompt_format == "text" else carried.notes
    return noted_table(own | carried.columns, _TYPES, notes)


def _data_source(problem: Problem, record: Mapping[str, Any]) -> str:
    source = record.get("data_source")
    return source if isinstance(source, str) and source else problem.source


def _reward_models(problems: Sequence[Problem], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records' own, with the answer as the ground truth of those that have none."""
    given = [_object(record.get("reward_model")) for record in records]
    truths = one_type_or_text(
        [
            _given(own.get("ground_truth"), problem.answer)
            for own, problem in zip(given, problems, strict=True)
        ]
    )
    return [
        {**own, "style": _given(own.get("style"), "rule"), "ground_truth": truth}
        for own, truth in zip(given, truths, strict=True)
    ]


def _extra_infos(problems: Sequence[Problem], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records' own with the problem's id, also as ``index`` where there was none."""
    given = [_object(record.get("extra_info")) for record in records]
    ids = [problem.problem_id for problem in problems]
    indices = one_type_or_text(
        [_given(own.get("index"), problem_id) for own, problem_id in zip(given, ids, strict=True)]
    )
    return [
        {**own, "index": index, "split": _given(own.get("split"), "train"), "problem_id": problem_id}
        for own, index, problem_id in zip(given, indices, ids, strict=True)
    ]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _given(value: Any, otherwise: str) -> Any:
    return otherwise if value is None else value


def verl_recipe(file: Path, rows: int) -> str:
    """Return how verl is told to load the file, keep its order, and start it from the first row."""
    return f"""# {file.name} in verl

{rows} problems, best first. The flags:

```
data.train_files={file}
data.prompt_key=prompt
data.reward_fn_key=data_source
data.shuffle=False
data.train_batch_size=<at most {rows}>
```

- `data.shuffle=False` keeps the ranking's order; the default shuffles it away.
- An incomplete last batch is dropped, so a `data.train_batch_size` above {rows} gives 0 steps.
- verl's own rewards go by the exact `data_source` and refuse one that they do not know. For another reward:
  `reward.custom_reward_function.path=<file.py>` (`custom_reward_function.path` in older versions).

## Going on from a checkpoint

verl goes to the row where the old file was left, and so would skip the best rows of this one. Before you
resume, delete `global_step_<N>/data.pt` in the checkpoint (verl then only warns), and raise
`trainer.total_epochs` or `trainer.total_training_steps`: the steps already done count, so that a smaller
file can end the training at once.

Or start anew from the weights: `actor_rollout_ref.model.path=<merged Hugging Face checkpoint>`,
`trainer.resume_mode=disable` and a new `trainer.default_local_dir`.
"""
