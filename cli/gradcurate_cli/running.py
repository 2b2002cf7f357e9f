"""What every verb does around its call: errors, exit codes, JSON, interrupts.

Standard output carries the result alone; progress, notes and errors go to standard error.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from rich.console import Console

from gradcurate.errors import GradcurateError

Result = TypeVar("Result")
INTERRUPTED = 130

console = Console(highlight=False)
log = Console(stderr=True, highlight=False)


def run(call: Callable[[], Result], show: Callable[[Result], None], as_json: bool) -> None:
    """Call a verb, print what it returns, and leave with its exit code."""
    with _reporting_errors(as_json):
        result = call()
        if as_json:
            sys.stdout.write(json.dumps(_plain(result), ensure_ascii=False) + "\n")
        else:
            show(result)


@contextmanager
def _reporting_errors(as_json: bool) -> Iterator[None]:
    try:
        yield
    except GradcurateError as error:
        if as_json:
            kind = type(error).__name__
            fields = {"expected": error.expected, "received": error.received, "remedy": error.remedy}
            sys.stdout.write(json.dumps({"error": {"kind": kind, **fields}}, ensure_ascii=False) + "\n")
        log.print(f"[bold red]error:[/bold red] {_escaped(str(error))}", soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        log.print("interrupted; finished batches are kept, and the same command goes on from them")
        raise typer.Exit(INTERRUPTED) from error


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _plain(result: Any) -> Any:
    return dataclasses.asdict(result)
