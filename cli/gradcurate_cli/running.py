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
from rich.text import Text

from gradcurate.errors import GradcurateError

Result = TypeVar("Result")
INTERRUPTED = 130

# What people wrote may hold "[/b]" or ":warning:", and is printed as it is, unbroken.
console, log = (
    Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for stderr in (False, True)
)


def run(call: Callable[[], Result], show: Callable[[Result], None], as_json: bool) -> None:
    """Call a verb, print what it returns, and leave with its exit code."""
    with _reporting_errors(as_json):
        result = call()
        if as_json:
            _write_json(_plain(result))
        else:
            show(result)


@contextmanager
def _reporting_errors(as_json: bool) -> Iterator[None]:
    try:
        yield
    except GradcurateError as error:
        report(error, as_json)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        log.print("interrupted; finished batches are kept, and the same command goes on from them")
        raise typer.Exit(INTERRUPTED) from error


def report(error: GradcurateError, as_json: bool) -> None:
    """Print an error as one line, and also as JSON on standard output where that was asked for."""
    if as_json:
        fields = {"expected": error.expected, "received": error.received, "remedy": error.remedy}
        _write_json({"error": {"kind": type(error).__name__, **fields}})
    log.print(Text.assemble(("error:", "bold red"), " ", " ".join(str(error).split())))


def _plain(result: Any) -> Any:
    return dataclasses.asdict(result)


def _write_json(result: Any) -> None:
    sys.stdout.write(json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
