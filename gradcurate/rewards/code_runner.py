"""Runs a generated program against tests: ``python -I code_runner.py``, with the request on stdin.

The request is ``{"code": text, "tests": [...], "seconds": number}`` as JSON. A test is one of::

    {"source": code}                                          to run after the program, in its names
    {"function": name, "arguments": [...], "expected": value}
    {"stdin": text, "stdout": text}

Each goes to a fork of its own, in an empty folder, and each answer is a line of stdout: null for a test that
passed, else what went wrong. A program with ``stdin`` is ``__main__``, and its output decides; any other is
a module ``solution``, which cannot pass a test by leaving early. Functions ``test*`` and ``TestCase`` classes
of a source are run.

Limits of a fork: what is left of ``seconds`` for all tests, files of 16 MB, nothing written outside its
folder, no process, no network, no foreign library. On Linux the network is also cut off by the kernel where
it allows that, and memory is what the caller's limit leaves. The rest is an audit hook of Python's own, which
stops accidents and cheap tricks; it is no wall against an attacker.
"""

import atexit
import contextlib
import ctypes
import gc
import inspect
import json
import math
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LARGEST_FILE_BYTES = 16 << 20
LARGEST_STACK_BYTES = 120 << 20  # what Linux keeps free below a stack
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
PR_SET_PDEATHSIG = 1
FORBIDDEN = (
    *("socket.", "subprocess.", "pty.", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn"),
    *("os.system", "signal.pthread_kill"),
)
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGING = (
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"),
    "os.truncate",
)
AF_UNIX = 1
TOLERANCE = 1e-6
LATE = "not done in time"
PRELUDE = """
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from typing import *
"""
"""What sites of exercises import before a solution, so that solutions do not."""

Test = dict[str, Any]


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    _end_with_parent()
    _leave_network()
    deadline = time.monotonic() + request["seconds"]
    for test in request["tests"]:
        left = deadline - time.monotonic()
        failure = _failure(request["code"], test, left) if left > 0 else LATE
        sys.stdout.write(json.dumps(failure) + "\n")
        sys.stdout.flush()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_network() -> bool:
    """Move to a network without any interface, and return whether the kernel allows that."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None).unshare
    return 0 in (unshare(CLONE_NEWNET), unshare(CLONE_NEWNET | CLONE_NEWUSER))


def _failure(code: str, test: Test, seconds: float) -> str | None:
    """Return what a test says against the program, or None."""
    with tempfile.TemporaryDirectory() as folder:
        secret = secrets.token_hex()
        reading, writing = os.pipe()
        (Path(folder) / "stdin").write_text(test.get("stdin", ""), encoding="utf-8")
        child = os.fork()
        if child == 0:
            os.close(reading)
            _run(code, test, seconds, Path(folder), writing, secret)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as answers:
            answer = answers.read()
        _, status = os.waitpid(child, 0)
        left_by_itself = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        if answer == secret or ("stdin" in test and left_by_itself and not answer):
            return _wrong_output(Path(folder) / "stdout", test)
        if os.WIFSIGNALED(status):
            ended = os.WTERMSIG(status)
            return LATE if ended in (signal.SIGALRM, signal.SIGXCPU) else f"killed by signal {ended}"
        return answer or "left before the end"


def _run(code: str, test: Test, seconds: float, folder: Path, answers: int, secret: str) -> NoReturn:
    """Be the fork: run the test, answer with the secret if it passed, and leave."""
    said = ""
    try:
        _end_with_parent()
        os.dup2(os.open(folder / "stdin", os.O_RDONLY), 0)
        os.dup2(os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8")  # type: ignore[misc]
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8")  # type: ignore[misc]
        os.chdir(folder)
        tempfile.tempdir, sys.dont_write_bytecode = str(folder), True
        atexit._clear()  # what the runner itself would do at its end
        unittest.main = _nothing  # type: ignore[assignment]
        _limit(seconds)
        sys.addaudithook(_guard(str(folder.resolve())))
        _finish(_test(code, test))
        said = secret
    except BaseException as error:  # noqa: BLE001 - whatever a program raises is what its test says
        said = f"{type(error).__name__}: {error}"[:300]
    os.write(answers, said.encode(errors="replace"))
    os._exit(0)


def _nothing(*_args: Any, **_named: Any) -> None:
    """Stand in for what a source calls to run its tests, which are run anyway."""


def _finish(names: dict[str, Any]) -> None:
    """Do what Python does at its end: a program may leave work to threads, and output to be flushed."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(ValueError, AttributeError):  # closed, or none
            stream.flush()  # type: ignore[union-attr]
    names.clear()  # files that were left open are written
    gc.collect()


def _limit(seconds: float) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, LARGEST_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    stack = LARGEST_STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, LARGEST_STACK_BYTES)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _guard(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that refuses what a program for a test has no need of."""

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.__new__" and arguments[1] == AF_UNIX:
            return  # a pair within the process, as asyncio has one; connecting it is another event
        if event.startswith("ctypes."):
            raise ImportError(f"{event} is not allowed")  # as packages that can do without it expect
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is not allowed")
        for path in _written(event, arguments):
            if not _inside(path, folder):
                raise PermissionError(f"{event} of {os.fsdecode(path)} is not allowed")

    return guard


def _written(event: str, arguments: tuple[Any, ...]) -> list[Any]:
    """Return the paths that an event is about to change."""
    if event == "open":
        path, _, flags = arguments
        return [path] if flags & WRITING_FLAGS and not isinstance(path, int) else []
    paths = arguments if event.startswith(CHANGING) else ()
    return [path for path in paths if isinstance(path, str | bytes | os.PathLike)]


def _inside(path: Any, folder: str) -> bool:
    whole = os.path.realpath(os.fsdecode(path))
    return whole in (folder, os.devnull) or whole.startswith(folder + os.sep)


def _test(code: str, test: Test) -> dict[str, Any]:
    """Run the program and its test, and return its names."""
    program = types.ModuleType("__main__" if "stdin" in test else "solution")
    sys.modules[program.__name__] = program
    names = vars(program)
    names["__file__"] = "program.py"
    if "stdin" not in test:
        exec(PRELUDE, names)  # noqa: S102
    try:
        exec(compile(code, "program", "exec"), names)  # noqa: S102 - what this process is for
    except SystemExit as left:
        if left.code not in (None, 0) or "stdin" not in test:
            raise
    if "source" in test:
        _run_source(test["source"], names)
    if "function" in test:
        _call(names, test)
    return names


def _run_source(source: str, names: dict[str, Any]) -> None:
    before = dict(names)
    exec(compile(source, "test", "exec"), names)  # noqa: S102
    added = {name: value for name, value in names.items() if before.get(name) is not value}
    for name, value in added.items():
        if inspect.isclass(value) and issubclass(value, unittest.TestCase):
            outcome = unittest.defaultTestLoader.loadTestsFromTestCase(value).run(unittest.TestResult())
            for _, text in (outcome.failures + outcome.errors)[:1] if outcome else ():
                raise AssertionError(text.strip().splitlines()[-1])
        elif name.startswith("test") and inspect.isfunction(value):
            value()


def _call(names: dict[str, Any], test: Test) -> None:
    returned, expected = _find(names, test["function"])(*test["arguments"]), test["expected"]
    # Some datasets put each result into a list of its own.
    if not (_same(returned, expected) or _same([returned], expected)):
        raise AssertionError(f"{test['function']} returned {returned!r}, not {expected!r}"[:300])


def _find(names: dict[str, Any], function: str) -> Any:
    """Return a function, or the method of a class Solution."""
    if function not in names and "Solution" in names:
        return getattr(names["Solution"](), function)
    return names[function]


def _wrong_output(printed: Path, test: Test) -> str | None:
    if "stdout" not in test:
        return None
    found = printed.read_text(encoding="utf-8", errors="replace")
    words, expected = found.split(), test["stdout"].split()
    if len(words) == len(expected) and all(map(_same_word, words, expected)):
        return None
    return f"printed {found[:100]!r}, not {test['stdout'][:100]!r}"


def _same_word(found: str, expected: str) -> bool:
    """Compare text, or numbers of which one is written as a fraction."""
    if found == expected:
        return True
    if not any(mark in word for word in (found, expected) for mark in ".eE"):
        return False
    try:
        return _close(float(found), float(expected))
    except ValueError:
        return False


def _same(found: Any, expected: Any) -> bool:
    """Compare as JSON has them; whole numbers exactly, fractions nearly."""
    found = found.tolist() if hasattr(found, "tolist") else found
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = {str(key): value for key, value in found.items()}
        return keys.keys() == expected.keys() and all(_same(keys[k], expected[k]) for k in keys)
    numbers = all(isinstance(value, int | float) for value in (found, expected))
    fraction = numbers and any(isinstance(value, float) for value in (found, expected))
    return bool(found == expected) or (fraction and _close(found, expected))


def _close(found: float, expected: float) -> bool:
    """Tell whether two numbers are the same but for rounding; two whole ones must be equal."""
    if found == expected:
        return True
    finite = math.isfinite(found) and math.isfinite(expected)
    if not finite or (float(found).is_integer() and float(expected).is_integer()):
        return False
    return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


if __name__ == "__main__":
    main()
