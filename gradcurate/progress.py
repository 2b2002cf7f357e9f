"""How a long stage reports what it has done, without knowing who watches."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, final


class Task(Protocol):
    """One stage under way."""

    def advance(self, done: int, tokens: int = 0) -> None:
        """Report that ``done`` more units, worth ``tokens`` tokens, are finished."""
        ...


class Progress(Protocol):
    """Where stages announce themselves."""

    def task(self, name: str, total: int, done: int, unit: str) -> AbstractContextManager[Task]:
        """Open a stage of ``total`` units, of which ``done`` were finished by an earlier run."""
        ...


@final
class Silent:
    """A `Progress` that says nothing: the default of the Python API."""

    def task(self, name: str, total: int, done: int, unit: str) -> AbstractContextManager[Task]:  # noqa: ARG002
        """Open a stage that says nothing."""
        return nullcontext(self)

    def advance(self, done: int, tokens: int = 0) -> None:
        """Say nothing."""
