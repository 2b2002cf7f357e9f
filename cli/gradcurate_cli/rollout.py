"""``gradcurate rollout``."""

from typing import Any

import gradcurate
from gradcurate.api import RolloutReport
from gradcurate_cli.options import ConfigOption, JsonOption, QuietOption, with_settings
from gradcurate_cli.progress import progress_for
from gradcurate_cli.running import console, log, run
from gradcurate_cli.summary import show_bad_rows, status_line


@with_settings
def rollout(
    settings: dict[str, Any],
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample and reward rollouts, and stop there.

    Reads the pool, the validation set and the checkpoint. Writes run.json, problems.parquet and
    rollouts/ in the run directory.

    Example: gradcurate rollout --config gradcurate.toml --run runs/1
    """
    progress = progress_for(log, quiet)
    run(lambda: gradcurate.rollout(config=config, progress=progress, **settings), _show, as_json)


def _show(report: RolloutReport) -> None:
    console.print(f"{report.rollouts} rollouts in {report.run}, {report.failed_rollouts} without a reward")
    console.print(status_line("pool", report.pool_statuses))
    console.print(status_line("validation", report.validation_statuses))
    show_bad_rows(report.run, report.bad_rows)
