"""How a long stage reports what it has done, without knowing who watches."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import final


class Task(ABC):
    """One stage under way."""

    @abstractmethod
    def advance(self, done: int, tokens: int = 0) -> None:
        """Report that ``done`` more units, worth ``tokens`` tokens, are finished."""


class Progress(ABC):
    """Where stages announce themselves."""

    @abstractmethod
    def task(self, name: str, total: int, done: int, unit: str) -> AbstractContextManager[Task]:
        """Open a stage of ``total`` units, of which ``done`` were finished by an earlier run."""


@final
class Silent(Progress):
    """Says nothing: the default of the Python API."""

    def task(self, name: str, total: int, done: int, unit: str) -> AbstractContextManager[Task]:  # noqa: ARG002
        """Open a stage that says nothing."""
        return nullcontext(_SilentTask())


@final
class _SilentTask(Task):
    def advance(self, done: int, tokens: int = 0) -> None:
        """Say nothing."""
