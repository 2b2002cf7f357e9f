"""``gradcurate summary``."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.table import Table

import gradcurate
from gradcurate_cli.options import JsonOption, RunOption
from gradcurate_cli.running import console
from gradcurate_cli.running import run as run_verb
from gradcurate_cli.tables import add_columns, cut, open_table

if TYPE_CHECKING:
    from gradcurate.report.checks import Checks
    from gradcurate.report.summary import PartSummary, RankedProblem, Summary
    from gradcurate.scores.confidence import Confidence, SetCheck

HALF = 0.5
FIXED = 0.999
WIDTH = 80


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
    for title, ranked in (("best aligned", summary.best), ("worst aligned", summary.worst)):
        if ranked:
            console.print(_ranking(title, ranked), "")
    console.print(_parts(summary.parts), "")
    console.print(_pass_rates(summary.pass_rates), "")
    console.print(status_line("pool", summary.pool_statuses))
    console.print(status_line("validation", summary.validation_statuses))
    for line in (*_checks(summary.checks), *_confidence(summary.confidence)):
        console.print(textwrap.fill(line, WIDTH, subsequent_indent="  "))
    show_bad_rows(summary.run, summary.bad_rows)
    if summary.failed_rollouts:
        console.print(f"rollouts without a reward: {summary.failed_rollouts}; `gradcurate inspect` shows why")
    console.print(f"scores: {summary.run}/scores.parquet")


def _checks(checks: "Checks") -> Iterator[str]:
    if checks.dump is not None:
        lost = ", ".join(f"{count} {reason}" for reason, count in checks.dump.items() if reason != "matched")
        yield f"rollouts of the dump: {checks.dump['matched']} matched, {lost}"
        yield "trainers that filter groups leave those without a signal out of their dumps"
    if checks.logprob_kl is not None:
        yield (
            f"sampler's log-probabilities: KL {checks.logprob_kl:.1g} nats a token, "
            f"largest gap {checks.logprob_gap:.1g}"
        )
    if checks.norm_error is not None:
        cosines = "" if checks.cosine_error is None else f", cosines ±{checks.cosine_error:.4f}"
        yield (
            f"sketch error, by a second seed on {checks.second_seed_rows} rows: "
            f"scores ±{checks.norm_error:.1%}{cosines}"
        )
    if checks.difference_error is not None:
        yield f"derivatives by forward passes, of two steps: ±{checks.difference_error:.1%}"


def _confidence(confidence: "Confidence") -> Iterator[str]:
    from gradcurate.scores.confidence import LEAST_COSINE, remedy

    for check in confidence.sets:
        yield _direction(check)
        if check.cosine_error:
            yield f"numerators are in part of sketches: cosines ±{check.cosine_error:.4f}"
    yield _reliability(confidence)
    for check in confidence.doubtful:
        yield (
            f"UNRELIABLE: halves of the direction should have a cosine of at least {LEAST_COSINE}. "
            f"{remedy(check.direction)}"
        )


def _direction(check: "SetCheck") -> str:
    found = check.direction
    halves = [
        f"of the {what} {cosine:.2f}{'' if error is None else f' ± {error:.2f}'}"
        for what, cosine, error in (
            ("rollouts", found.over_rollouts, None),
            ("problems", found.over_problems, found.over_problems_error),
        )
        if cosine is not None
    ]
    told = f"cosine of halves {', '.join(halves)}" if halves else "too few problems and rollouts to halve"
    size = f"{found.problems} problems" + (f" x {found.rollouts:.0f} rollouts" if found.rollouts else "")
    return f"direction of {check.name}: {size}, {told}"


def _reliability(confidence: "Confidence") -> str:
    found = confidence.ranking
    if found is None:
        return f"ranking by {confidence.score}: reliability unknown; too few halves have a score"
    if found.halves > FIXED:
        return f"ranking by {confidence.score}: nothing sampled of the pool changes it"
    needed = (
        f"; 0.5 needs about {found.rollouts_for_half} rollouts a problem"
        if found.rollouts_for_half is not None and found.reliability < HALF
        else ""
    )
    return (
        f"ranking by {confidence.score}: reliability {found.reliability:.2f} "
        f"(90 %: {found.low:.2f} to {found.high:.2f}, {found.problems:.0f} problems), "
        f"{found.share_of_best_gain:.0%} of the gain of a ranking without noise{needed}"
    )


def show_bad_rows(run: str, bad_rows: int) -> None:
    """Say how many rows of the files were set aside, and where they are, if any were."""
    if bad_rows:
        console.print(f"rows set aside: {bad_rows}; {run}/bad_rows.jsonl says why")


def status_line(split: str, statuses: Mapping[str, int]) -> str:
    """Return how many problems of a split have each status."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    return f"{split}: {sum(statuses.values())} problems ({counts})"


def _ranking(title: str, ranked: "Sequence[RankedProblem]") -> Table:
    table = open_table(title)
    add_columns(table, ("rank", "score", "±", "pass"))
    table.add_column("source", max_width=17)
    add_columns(table, ("problem",), justify="left")
    table.add_column("prompt")
    for row in ranked:
        texts = (cut(text) for text in (row.source, row.problem_id, row.prompt))
        half = "" if row.score_high is None else f"{row.score_high - row.score:.4f}"
        rate = "" if row.pass_rate is None else f"{row.pass_rate:.2f}"
        table.add_row(str(row.rank), f"{row.score:+.4f}", half, rate, *texts)
    return table


def _parts(parts: "Sequence[PartSummary]") -> Table:
    table = open_table("mean scores")
    for name in ("column", "value"):
        table.add_column(name)
    add_columns(table, ("problems", "scored", "mean score", "mean pass"))
    for part in parts:
        score = "" if part.mean_score is None else f"{part.mean_score:+.4f}"
        rate = "" if part.mean_pass_rate is None else f"{part.mean_pass_rate:.2f}"
        table.add_row(cut(part.column), cut(part.value), str(part.problems), str(part.scored), score, rate)
    return table


def _pass_rates(counts: Mapping[str, int]) -> Table:
    table = open_table("pass rates of the pool")
    add_columns(table, ("pass rate", *counts))
    table.add_row("problems", *(str(count) for count in counts.values()))
    return table
