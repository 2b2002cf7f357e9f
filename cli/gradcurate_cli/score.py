"""``gradcurate score``."""

from typing import Any

import gradcurate
from gradcurate_cli.options import ConfigOption, JsonOption, QuietOption, with_settings
from gradcurate_cli.progress import progress_for
from gradcurate_cli.running import log, run
from gradcurate_cli.summary import show_summary


@with_settings
def score(
    settings: dict[str, Any],
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank a pool: sample, reward, sketch and score, going on from whatever the run directory has.

    Reads the pool, the validation set and the checkpoint. Writes run.json, problems.parquet,
    rollouts/, validation/, sketches/ and scores.parquet in the run directory.

    Example: gradcurate score --pool pool.jsonl --validation validation.jsonl --model my/model --run runs/1
    """
    progress = progress_for(log, quiet)
    run(lambda: gradcurate.score(config=config, progress=progress, **settings), show_summary, as_json)
