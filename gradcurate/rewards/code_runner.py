"""Runs a generated program against tests: ``python -I code_runner.py``, with the request on stdin.

The request is ``{"code": text, "tests": [...], "seconds": number}`` as JSON. A test is one of::

    {"source": code}                                          to run after the program, in its names
    {"function": name, "arguments": [...], "expected": value}
    {"stdin": text, "stdout": text}

Each goes to a fork of its own, in an empty folder, and each answer is a line of stdout: null for a test that
passed, else what went wrong. A program cannot pass a test by leaving early, or by printing.

Limits of a fork: what is left of ``seconds`` for all tests, files of 16 MB, nothing written outside its
folder, no process, no network, no foreign library. On Linux the network is also cut off by the kernel where
it allows that, and memory is what the caller's limit leaves. The rest is an audit hook of Python's own, which
stops accidents and cheap tricks; it is no wall against an attacker.
"""

import atexit
import ctypes
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LARGEST_FILE_BYTES = 16 << 20
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
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
SHORTEST_SECONDS = 0.01

Test = dict[str, Any]


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    _leave_network()
    deadline = time.monotonic() + request["seconds"]
    for test in request["tests"]:
        failure = _failure(request["code"], test, max(SHORTEST_SECONDS, deadline - time.monotonic()))
        sys.stdout.write(json.dumps(failure) + "\n")
        sys.stdout.flush()


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
        if answer == secret:
            return _wrong_output(Path(folder) / "stdout", test)
        if os.WIFSIGNALED(status):
            ended = os.WTERMSIG(status)
            late = ended in (signal.SIGALRM, signal.SIGXCPU)
            return "not done in time" if late else f"killed by signal {ended}"
        return answer or "left before the end"


def _run(code: str, test: Test, seconds: float, folder: Path, answers: int, secret: str) -> NoReturn:
    """Be the fork: run the test, answer with the secret if it passed, and leave."""
    said = ""
    try:
        os.dup2(os.open(folder / "stdin", os.O_RDONLY), 0)
        os.dup2(os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8")  # type: ignore[misc]
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8")  # type: ignore[misc]
        os.chdir(folder)
        tempfile.tempdir, sys.dont_write_bytecode = str(folder), True
        atexit._clear()  # what the runner itself would do at its end
        _limit(seconds)
        sys.addaudithook(_guard(str(folder.resolve())))
        _test(code, test)
        _finish()
        said = secret
    except BaseException as error:  # noqa: BLE001 - whatever a program raises is what its test says
        said = f"{type(error).__name__}: {error}"[:300]
    os.write(answers, said.encode(errors="replace"))
    os._exit(0)


def _finish() -> None:
    """Do what Python does at its end: a program may leave work to threads, and output to be flushed."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()


def _limit(seconds: float) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, LARGEST_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
    return whole == folder or whole.startswith(folder + os.sep)


def _test(code: str, test: Test) -> None:
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    names: dict[str, Any] = vars(program)
    try:
        exec(compile(code, "program", "exec"), names)  # noqa: S102 - what this process is for
    except SystemExit as left:
        if left.code not in (None, 0) or "stdin" not in test:
            raise
    if "source" in test:
        exec(compile(test["source"], "test", "exec"), names)  # noqa: S102
    if "function" in test:
        returned = _find(names, test["function"])(*test["arguments"])
        # Some datasets put each result into a list of its own.
        if not (_same(returned, test["expected"]) or _same([returned], test["expected"])):
            raise AssertionError(f"{test['function']} returned {returned!r}, not {test['expected']!r}"[:300])


def _find(names: dict[str, Any], function: str) -> Any:
    """Return a function, or the method of a class Solution."""
    if function not in names and "Solution" in names:
        return getattr(names["Solution"](), function)
    return names[function]


def _wrong_output(printed: Path, test: Test) -> str | None:
    if "stdout" not in test:
        return None
    found = printed.read_text(encoding="utf-8", errors="replace")
    same = _same(found.split(), test["stdout"].split())
    return None if same else f"printed {found[:100]!r}, not {test['stdout'][:100]!r}"


def _same(found: Any, expected: Any) -> bool:
    """Compare as JSON has them, numbers (in text, too) by their values."""
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = {str(key): value for key, value in found.items()}
        return keys.keys() == expected.keys() and all(_same(keys[k], expected[k]) for k in keys)
    if found == expected:
        return True
    try:
        return math.isclose(float(found), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except (TypeError, ValueError, OverflowError):
        return False


if __name__ == "__main__":
    main()
