"""``gradcurate verify``."""

from typing import TYPE_CHECKING, Annotated, Optional

import typer

import gradcurate
from gradcurate_cli.options import JsonOption, QuietOption, RunOption
from gradcurate_cli.progress import progress_for
from gradcurate_cli.running import console, log
from gradcurate_cli.running import run as run_verb
from gradcurate_cli.tables import add_columns, cut, open_table

if TYPE_CHECKING:
    from gradcurate.report.verification import Verification


def verify(
    run: RunOption,
    problems: Annotated[int, typer.Option(help="Problems to compare, spread evenly over the ranking.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    gradient_model: Annotated[
        Optional[str],  # noqa: UP045 (typer reads it)
        typer.Option(help="Also compare this cheaper model's ranking with the policy's.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare stored scores with exact gradients of the same rollouts, by plain autograd.

    Reads the run directory and the checkpoint. Writes nothing.

    Example: gradcurate verify --run runs/1 --problems 32
    """
    progress = progress_for(log, quiet)
    run_verb(
        lambda: gradcurate.verify(
            run, problems=problems, device=device, gradient_model=gradient_model, progress=progress
        ),
        show_verification,
        as_json,
    )


def show_verification(found: "Verification") -> None:
    """Print a verification for people."""
    table = open_table(f"against the exact gradients of {found.problems} problems")
    table.add_column("stored")
    add_columns(table, ("Spearman", "rmse", "worst"))
    add_columns(table, ("worst problem",), justify="left")
    compared = [("score", found.score)]
    if found.sketched_cosine is not None:
        compared.append(("cosine of sketches", found.sketched_cosine))
    if found.proxy is not None:
        compared.append((f"exact under {cut(found.proxy.model)}", found.proxy.agreement))
    for name, fidelity in compared:
        spearman = "undefined" if fidelity.spearman is None else f"{fidelity.spearman:.4f}"
        numbers = (spearman, f"{fidelity.rmse:.5f}", f"{fidelity.worst:.5f}")
        table.add_row(name, *numbers, cut(fidelity.worst_problem))
    console.print(table, "")
    if found.sketched_cosine is not None:
        console.print(f"rmse of an ideal sketch, 1/sqrt(K={found.sketch_dim}): {found.ideal_rmse:.5f}")
    if found.direction_error is not None:
        console.print(f"relative error of the validation direction: {found.direction_error:.2g}")
    if found.proxy is not None:
        console.print(f"{found.proxy.model} took {found.proxy.seconds_ratio:.2f} times the policy's time")
