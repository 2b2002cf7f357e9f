"""Every error that gradcurate raises on purpose.

    GradcurateError              exit code 1
    ├── InputError (ValueError)  exit code 2: what the user gave cannot be used
    │   ├── SettingsError        flags, keyword arguments, the TOML file
    │   ├── ProblemsError        a pool or validation file, its rows and columns
    │   ├── PolicyError          a checkpoint, its tokenizer, its chat template
    │   ├── RewardError          a reward that cannot be found or loaded
    │   ├── RolloutsError        a trainer's dump that cannot be read, or answers other problems
    │   └── RunDirectoryError    a run directory of other settings, or incomplete
    ├── NoSignalError            exit code 3: nothing to learn from in these rollouts
    ├── LockedError              exit code 4: another process works in the run directory
    ├── EngineError              exit code 5: an engine or server stopped answering; resumable
    ├── NumericalError           exit code 1: NaN or infinity where a number must be
    └── OutOfMemoryError         exit code 1: a single rollout does not fit

A message has three parts: what must hold, what came instead, and what to do. Each class
carries its exit code, so the command line needs no table of its own.
"""

from typing import ClassVar


class GradcurateError(Exception):
    """Base of all errors raised on purpose: ``expected``, ``received`` and ``remedy`` are plain text."""

    exit_code: ClassVar[int] = 1

    def __init__(self, expected: str, received: str, remedy: str) -> None:
        super().__init__(expected, received, remedy)
        self.expected = expected
        self.received = received
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.expected}; {self.received}. {self.remedy}"


class InputError(GradcurateError, ValueError):
    """What the user gave cannot be used as it is."""

    exit_code: ClassVar[int] = 2


class SettingsError(InputError):
    """A flag, keyword argument or TOML key is unknown or out of range."""


class ProblemsError(InputError):
    """A pool or validation file cannot be read as problems."""


class PolicyError(InputError):
    """A checkpoint cannot be loaded, or does not fit the problems."""


class RewardError(InputError):
    """A reward cannot be found or loaded."""


class RolloutsError(InputError):
    """A trainer's dump of rollouts cannot be read, or answers other problems."""


class RunDirectoryError(InputError):
    """A run directory lacks a stage, or was made with other settings."""


class NoSignalError(GradcurateError):
    """The rollouts hold no learning signal, so no direction and no ranking exist."""

    exit_code: ClassVar[int] = 3


class LockedError(GradcurateError):
    """Another process holds the run directory."""

    exit_code: ClassVar[int] = 4


class EngineError(GradcurateError):
    """An engine or server does not answer; what it has sampled is kept, and the same command goes on."""

    exit_code: ClassVar[int] = 5


class UnreliableError(GradcurateError):
    """The validation direction is mostly noise, so that a selection along it would be as well."""

    exit_code: ClassVar[int] = 6


class NumericalError(GradcurateError):
    """A gradient or score is NaN or infinite."""


class OutOfMemoryError(GradcurateError):
    """A single rollout does not fit in memory."""


def first_line(error: BaseException) -> str:
    """Return what an error of another library says as a clause: one line, and no full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" .:!")
