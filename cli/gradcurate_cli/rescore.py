"""``gradcurate rescore``."""

import functools
from typing import Annotated, Any, Optional

import typer

import gradcurate
from gradcurate.config import score_setting_names
from gradcurate_cli.options import JsonOption, RunOption, with_settings
from gradcurate_cli.running import run as run_verb
from gradcurate_cli.summary import show_summary


@functools.partial(with_settings, only=score_setting_names())
def rescore(
    settings: dict[str, Any],
    *,
    run: RunOption,
    validation_run: Annotated[
        Optional[list[str]],  # noqa: UP045 (typer reads it)
        typer.Option(
            help="Aim at the validation set of this run instead; may be given several times.",
            show_default=False,
        ),
    ] = None,
    exclude_rollouts: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Leave out the rollouts that this file lists (problem_id, rollout), or those truncated.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Problems to show of the ranking's head and tail.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Rank a run anew from the rows that it has, in seconds and without a model.

    Reads problems.parquet, rollouts/, rewards/ and sketches/ in the run directory. Writes scores.parquet and
    reliability.json. What is not given is as in the present scores.

    Example: gradcurate rescore --run runs/1 --advantage dr_grpo --score t
    """
    run_verb(
        lambda: gradcurate.rescore(
            run, validation_run=validation_run, exclude_rollouts=exclude_rollouts, top=top, **settings
        ),
        show_summary,
        as_json,
    )
