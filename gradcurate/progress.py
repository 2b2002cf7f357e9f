"""How a long stage reports what it has done, without knowing who watches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """One stage under way."""

    def advance(self, done: int, tokens: int = 0) -> None:
        """Report that ``done`` more units, worth ``tokens`` tokens, are finished."""
        ...


class Progress(Protocol):
    """Where stages announce themselves."""

    def note(self, message: str) -> None:
        """Say one line."""
        ...

    def task(self, name: str, total: int, done: int, unit: str) -> "TaskContext":
        """Open a stage of ``total`` units, of which ``done`` were finished by an earlier run."""
        ...


class TaskContext(Protocol):
    """A context manager that yields a `Task`."""

    def __enter__(self) -> Task: ...  # noqa: D105
    def __exit__(self, *exception: object) -> bool | None: ...  # noqa: D105


class Silent:
    """A `Progress` that says nothing: the default of the Python API."""

    def note(self, message: str) -> None:
        """Say nothing."""

    @contextmanager
    def task(self, name: str, total: int, done: int, unit: str) -> Iterator[Task]:  # noqa: ARG002
        """Open a stage that says nothing."""
        yield self

    def advance(self, done: int, tokens: int = 0) -> None:
        """Say nothing."""
