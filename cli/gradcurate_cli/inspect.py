"""``gradcurate inspect``."""

from typing import TYPE_CHECKING, Annotated

import typer

import gradcurate
from gradcurate_cli.options import JsonOption, RunOption
from gradcurate_cli.running import console
from gradcurate_cli.running import run as run_verb

if TYPE_CHECKING:
    from gradcurate.report.inspection import InspectedRollout, Inspection


def inspect_problem(
    problem_id: Annotated[str, typer.Argument(help="A problem's id, or the beginning of one.")],
    run: RunOption,
    as_json: JsonOption = False,
) -> None:
    """Show one problem: its prompt, its rollouts with rewards, its score and why.

    Reads the run directory. Writes nothing.

    Example: gradcurate inspect --run runs/1 3f9c
    """
    run_verb(lambda: gradcurate.inspect(run, problem_id), _show, as_json)


def _show(inspection: "Inspection") -> None:
    console.print(f"{inspection.problem_id} ({inspection.split}, {inspection.source})", style="bold")
    for message in inspection.prompt:
        console.print(f"{message['role']}: {message['content']}")
    console.print(f"answer: {inspection.answer}")
    console.print(_why(inspection))
    for rollout in inspection.rollouts:
        console.print(f"\n{_heading(rollout)}", style="bold")
        console.print(rollout.completion)


def _why(inspection: "Inspection") -> str:
    if inspection.status != "scored":
        return f"no learning signal: {inspection.status}"
    if inspection.score is None:
        return "has a learning signal; no score"
    score = inspection.score
    rank, dot = f"rank {score['rank']}", f"dot with the validation gradient {score['dot']:+.4g}"
    if score["norm"] is None:
        return f"{rank}, {dot}"
    return (
        f"{rank}, score {score['score']:+.4f}, by sketches alone {score['sketched_cosine']:+.4f}\n"
        f"{dot}, norm {score['norm']:.4g}"
    )


def _heading(rollout: "InspectedRollout") -> str:
    failure = f"no reward ({rollout.reward_detail.get('error')})"
    reward = failure if rollout.reward is None else f"reward {rollout.reward:g}"
    end = ", cut off" if rollout.finish_reason == "length" else ""
    parts = [reward, f"{rollout.tokens} tokens{end}"]
    if rollout.weight is not None:
        parts.append(f"weight {rollout.weight:+.4f}")
    if rollout.directional is not None:
        parts.append(f"along validation {rollout.directional:+.4g}")
    return f"rollout {rollout.rollout}: {', '.join(parts)}"
