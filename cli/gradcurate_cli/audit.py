"""``gradcurate audit``."""

from typing import Annotated, Optional

import typer

import gradcurate
from gradcurate.api import AuditReport
from gradcurate_cli.options import JsonOption, RunOption
from gradcurate_cli.running import console
from gradcurate_cli.running import run as run_verb
from gradcurate_cli.tables import add_columns, cut, open_table


def audit(
    run: RunOption,
    false_share: Annotated[
        float, typer.Option(help="Share of the list that may point against the direction by chance.")
    ] = 0.2,
    out: Annotated[
        Optional[str],  # noqa: UP045 (typer reads it)
        typer.Option(help="The CSV file.  [dim]\\[default: RUN/audit.csv][/dim]", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List likely wrong answers of the pool, for a person to check.

    Reads scores.parquet, reliability.json and problems.parquet. Writes audit.csv: problems whose gradient
    points against the validation direction with confidence, and problems that ask the same and are answered
    otherwise.

    Example: gradcurate audit --run runs/1 --out suspects.csv
    """
    run_verb(lambda: gradcurate.audit(run, false_share=false_share, out=out), _show, as_json)


def _show(report: AuditReport) -> None:
    table = open_table("answers to check")
    add_columns(table, ("score", "p", "pass"))
    for name in ("reason", "problem", "answer", "prompt"):
        table.add_column(name)
    for found in report.suspects:
        numbers = (
            "" if number is None else f"{number:{form}}"
            for number, form in ((found.score, "+.4f"), (found.p_against, ".4f"), (found.pass_rate, ".2f"))
        )
        texts = (found.reason, found.problem_id, cut(found.answer), cut(found.prompt))
        table.add_row(*numbers, *texts)
    if report.suspects:
        console.print(table, "")
    against = sum(found.reason == "against" for found in report.suspects)
    if report.tested:
        console.print(
            f"{against} of {report.tested} problems point against the validation direction, of which "
            f"{report.false_share:.0%} may do so by chance"
        )
    else:
        console.print(
            "no problem has a derivative of known error, which takes three rollouts, and one direction"
        )
    conflicting = len(report.suspects) - against
    console.print(f"{conflicting} problems are answered otherwise than others that ask the same")
    console.print(f"list: {report.file}")
