"""``gradcurate select``."""

from typing import Annotated, Literal, Optional

import typer

import gradcurate
from gradcurate.api import SelectReport
from gradcurate_cli.options import JsonOption, RunOption
from gradcurate_cli.running import console
from gradcurate_cli.running import run as run_verb


def select(
    run: RunOption,
    top_k: Annotated[
        Optional[int],  # noqa: UP045 (typer reads it)
        typer.Option(help="How many problems to take.", show_default=False),
    ] = None,
    top_fraction: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Or which share of the problems that have a score.", show_default=False),
    ] = None,
    format: Annotated[Literal["verl", "trl", "jsonl"], typer.Option(help="For which trainer.")] = "jsonl",  # noqa: A002
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Folder to write to.  [dim]\\[default: RUN/exports/FORMAT][/dim]", show_default=False
        ),
    ] = None,
    accept_unreliable: Annotated[
        bool, typer.Option(help="Select although the validation direction is mostly noise.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the best problems of a scored run as a dataset that a trainer loads.

    Reads scores.parquet and problems.parquet. Writes selection.parquet, and the dataset and
    recipe.md in the output folder.

    Example: gradcurate select --run runs/1 --top-k 500 --format verl --out data/round-1
    """
    run_verb(
        lambda: gradcurate.select(
            run,
            top_k=top_k,
            top_fraction=top_fraction,
            format=format,
            out=out,
            accept_unreliable=accept_unreliable,
        ),
        _show,
        as_json,
    )


def _show(report: SelectReport) -> None:
    console.print(f"{report.selected} of {report.scored} scored problems ({report.strategy})")
    if report.inseparable:
        console.print(
            f"{report.inseparable} problems, taken or left, cannot be told from the cut: "
            "their scores' 90 % intervals hold it"
        )
    for note in report.notes:
        console.print(f"note: {note}")
    console.print(f"dataset: {report.export}")
    console.print(f"how to train on it: {report.recipe}")
