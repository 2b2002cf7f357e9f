"""Problems as JSON Lines, for trainers and scripts that read the pool's own layout.

A line is the original record with all its keys as they were, and one key more: ``gradcurate``, an object
of ``problem_id``, ``rank``, ``score`` and ``prompt`` (the prompt as the policy was asked: messages, or
one text). The ``gradcurate`` of an earlier export is replaced.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradcurate.exports.rows import NESTED, PromptFormat, SelectedProblem, asked_prompt, by_rank
from gradcurate.problems.json_text import json_text


def jsonl_lines(selected: Sequence[SelectedProblem], prompt_format: PromptFormat) -> bytes:
    """Return one JSON object per line, by rank, in UTF-8."""
    lines = (json_text(_object(chosen, prompt_format)) + "\n" for chosen in by_rank(selected))
    return "".join(lines).encode()


def _object(chosen: SelectedProblem, prompt_format: PromptFormat) -> dict[str, Any]:
    added = {
        "problem_id": chosen.problem.problem_id,
        "rank": chosen.rank,
        "score": chosen.score,
        "prompt": asked_prompt(chosen.problem, prompt_format),
    }
    return {**chosen.problem.row, NESTED: added}


def jsonl_recipe(file: Path, rows: int) -> str:
    """Return what the lines hold, and what to see to in whichever trainer reads them."""
    return f"""# {file.name}

{rows} problems as JSON Lines, best first. Each line is the pool's own record, untouched, and a key
`gradcurate` with `problem_id`, `rank`, `score` and the `prompt` as the policy was asked. A trainer that
loads the pool loads this file with the same settings.

- Most trainers shuffle: turn it off to keep the order, or count on which rows are here alone.
- `datasets` gives a column of mixed types back changed (the text "5" as the number 5). The Parquet formats
  have no such columns.

## Going on from a checkpoint

Most trainers go to the row where the old file was left, and so would skip the best rows of this one. Reset
the data position of the checkpoint, or start anew from its weights.
"""
