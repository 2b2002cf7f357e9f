"""The Typer app: the list of verbs.

Nothing here, nor at the head of any verb's module, imports torch or any other heavy package, so
that ``--help`` is instant.
"""

import inspect
import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from gradcurate.errors import SettingsError
from gradcurate_cli.audit import audit
from gradcurate_cli.inspect import inspect_problem
from gradcurate_cli.options import JSON_FLAG
from gradcurate_cli.rescore import rescore
from gradcurate_cli.reward import reward
from gradcurate_cli.rollout import rollout
from gradcurate_cli.running import report
from gradcurate_cli.score import score
from gradcurate_cli.select import select
from gradcurate_cli.sketch import sketch
from gradcurate_cli.summary import summary
from gradcurate_cli.verify import verify

EPILOG = (
    "Exit codes: 0 done; 1 failed; 2 an input cannot be used; 3 no learning signal in the rollouts; "
    "4 another process holds the run directory; 5 an engine or server does not answer; "
    "6 the validation direction is mostly noise; "
    "130 interrupted; 143 terminated."
)

TERMINATED = 128 + signal.SIGTERM

QUIET_LIBRARIES = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
"""Bars and warnings of other libraries would be drawn over gradcurate's own progress."""


def _help(verb: Callable[..., None]) -> str:
    """Return a verb's docstring with one line a paragraph, for typer keeps the source's line breaks."""
    paragraphs = (inspect.getdoc(verb) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    name="gradcurate",
    help="Rank reinforcement-learning problems for a language model by gradient alignment with a "
    "trusted validation set, and write what any RL trainer loads.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

for verb, name in (
    (score, "score"),
    (rollout, "rollout"),
    (reward, "reward"),
    (sketch, "sketch"),
    (rescore, "rescore"),
    (select, "select"),
    (summary, "summary"),
    (inspect_problem, "inspect"),
    (audit, "audit"),
    (verify, "verify"),
):
    app.command(name, help=_help(verb), epilog=EPILOG)(verb)


def main() -> None:
    """Run the command line."""
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a locale without UTF-8 must not cost the result
            stream.reconfigure(errors="replace")
    # Leaving through the blocks that hold files removes what is half-written; Slurm and Kubernetes send this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if JSON_FLAG in sys.argv:
        _run_for_json()
    app()


def _run_for_json() -> NoReturn:
    """Run the command line, and report flags that it does not take as JSON too."""
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as error:
        wrong = SettingsError(
            "A command takes the flags and values of its --help",
            error.format_message().rstrip("."),
            "Run the command with --help.",
        )
        report(wrong, as_json=True)
        sys.exit(wrong.exit_code)
