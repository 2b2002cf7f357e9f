"""Progress for people: a bar on a terminal, log lines elsewhere, with rate and time remaining."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from rich import progress as rich_progress
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gradcurate.progress import Progress, Task

SECONDS_BETWEEN_LINES = 10.0


def progress_for(console: Console, quiet: bool) -> "Bars | Lines | None":
    """Return how to report on this console; None is silence."""
    if quiet:
        return None
    return Bars(console) if console.is_terminal else Lines(console)


@final
class Bars(Progress):
    """One bar per stage."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, name: str, total: int, done: int, unit: str) -> Iterator["_Bar"]:
        """Show a bar for the length of the block."""
        columns = (
            TextColumn(f"{name:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}{{task.fields[rate]}}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        with rich_progress.Progress(*columns, console=self._console) as progress:
            yield _Bar(progress, progress.add_task(name, total=total, completed=done, rate=""))


@final
class _Bar(Task):
    def __init__(self, progress: rich_progress.Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._meter = _Meter()

    def advance(self, done: int, tokens: int = 0) -> None:
        self._meter.add(done, tokens)
        self._progress.update(self._task, advance=done, rate=self._meter.token_rate())


@final
class Lines(Progress):
    """A line when a stage starts, every few seconds while it runs, and when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, name: str, total: int, done: int, unit: str) -> Iterator["_Line"]:
        """Print lines for the length of the block."""
        resumed = f", {done} of them finished before" if done else ""
        self._console.print(f"{name}: {total} {unit}{resumed}")
        line = _Line(self._console, name, total, done, unit)
        yield line
        line.close()


@final
class _Line(Task):
    def __init__(self, console: Console, name: str, total: int, done: int, unit: str) -> None:
        self._console, self._name, self._total, self._done, self._unit = console, name, total, done, unit
        self._meter, self._printed = _Meter(), time.monotonic()

    def advance(self, done: int, tokens: int = 0) -> None:
        self._meter.add(done, tokens)
        self._done += done
        if time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            remaining = self._meter.remaining_seconds(self._total - self._done)
            rate = self._meter.token_rate()
            self._say(f"{self._done}/{self._total} {self._unit}{rate}, {remaining:.0f} s left")

    def close(self) -> None:
        if self._meter.done:
            self._say(f"done in {self._meter.seconds():.0f} s{self._meter.token_rate()}")

    def _say(self, text: str) -> None:
        self._console.print(f"{self._name}: {text}")


@final
class _Meter:
    """Counts what was done since the stage opened."""

    def __init__(self) -> None:
        self._started, self.done, self.tokens = time.monotonic(), 0, 0

    def add(self, done: int, tokens: int) -> None:
        self.done += done
        self.tokens += tokens

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def token_rate(self) -> str:
        return f" ({self.tokens / self.seconds():.0f} tokens/s)" if self.tokens else ""

    def remaining_seconds(self, owed: int) -> float:
        return owed * self.seconds() / self.done
