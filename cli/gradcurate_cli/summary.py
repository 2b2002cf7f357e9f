"""``gradcurate summary``."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.table import Table

import gradcurate
from gradcurate_cli.options import JsonOption, RunOption
from gradcurate_cli.running import console
from gradcurate_cli.running import run as run_verb

if TYPE_CHECKING:
    from gradcurate.report.summary import PartSummary, RankedProblem, Summary


def summary(
    run: RunOption,
    by: Annotated[
        Optional[list[str]],  # noqa: UP045 (typer reads it)
        typer.Option(help="Also compare mean scores by this column of the pool.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="Problems to show of the ranking's head and tail.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show a run's ranking, its mean score per source, and the spread of its pass rates.

    Reads scores.parquet, problems.parquet and rollouts/. Writes nothing.

    Example: gradcurate summary --run runs/1 --by difficulty
    """
    run_verb(lambda: gradcurate.summary(run, by=by or (), top=top), show_summary, as_json)


def show_summary(summary: "Summary") -> None:
    """Print a summary for people."""
    console.print(_ranking("best aligned", summary.best))
    if summary.worst:
        console.print(_ranking("worst aligned", summary.worst))
    console.print(_parts(summary.parts))
    spread = ", ".join(f"{count} at {name}" for name, count in summary.pass_rates.items() if count)
    console.print(f"pass rates of the pool: {spread}")
    console.print(status_line("pool", summary.pool_statuses))
    console.print(status_line("validation", summary.validation_statuses))
    console.print(f"scores: {summary.run}/scores.parquet", soft_wrap=True)


def status_line(split: str, statuses: Mapping[str, int]) -> str:
    """Return how many problems of a split have each status."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    return f"{split}: {sum(statuses.values())} problems ({counts})"


def _ranking(title: str, ranked: "Sequence[RankedProblem]") -> Table:
    table = Table("rank", "score", "pass rate", "source", "problem", "prompt", "answer", title=title)
    for row in ranked:
        table.add_row(
            str(row.rank),
            f"{row.score:+.4f}",
            f"{row.pass_rate:.2f}",
            row.source,
            row.problem_id,
            row.prompt,
            row.answer,
        )
    return table


def _parts(parts: "Sequence[PartSummary]") -> Table:
    table = Table("column", "value", "problems", "scored", "mean score", "mean pass rate")
    for part in parts:
        score = "" if part.mean_score is None else f"{part.mean_score:+.4f}"
        rate = "" if part.mean_pass_rate is None else f"{part.mean_pass_rate:.2f}"
        table.add_row(part.column, part.value, str(part.problems), str(part.scored), score, rate)
    return table
