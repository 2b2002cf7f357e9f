"""``gradcurate reward``."""

import functools
from typing import Any

import gradcurate
from gradcurate.api import RewardReport
from gradcurate.config import reward_setting_names
from gradcurate_cli.options import JsonOption, QuietOption, RunOption, with_settings
from gradcurate_cli.progress import progress_for
from gradcurate_cli.running import console, log
from gradcurate_cli.running import run as run_verb
from gradcurate_cli.summary import status_line


@functools.partial(with_settings, only=reward_setting_names())
def reward(
    settings: dict[str, Any],
    *,
    run: RunOption,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Reward the rollouts of a run again, and rank it anew from the sketches it has; no model is run.

    Reads problems.parquet, rollouts/ and sketches/ in the run directory. Writes rewards/ and scores.parquet.
    What is not given is as in the run. Removing rewards/ brings the first rewards back.

    Example: gradcurate reward --run runs/1 --reward my_rewards.py:compute_score
    """
    progress = progress_for(log, quiet)
    run_verb(lambda: gradcurate.reward(run, progress=progress, **settings), _show, as_json)


def _show(report: RewardReport) -> None:
    console.print(
        f"{report.rollouts} rollouts in {report.run}: {report.changed_rewards} with another reward than at "
        f"first, {report.failed_rollouts} without one"
    )
    console.print(status_line("pool", report.pool_statuses))
    console.print(status_line("validation", report.validation_statuses))
    if "not_sketched" in {*report.pool_statuses, *report.validation_statuses}:
        console.print(
            "not_sketched: a signal since the new rewards, but no sketches yet; score into another --run"
        )
    if report.numerator == "sketched":
        console.print(
            "rewards of validation problems changed, so that numerators are in part of sketches; "
            "score into another --run for exact ones"
        )
    if report.numerator:
        console.print(f"scores: {report.run}/scores.parquet")
