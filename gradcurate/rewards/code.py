"""The reward ``code``: 1 if a generated Python program passes every test of the problem, else 0.

Tests are the problem's answer, in one of the forms that datasets of code have: Python source that
asserts (text, or a JSON list of such), or a JSON object with ``inputs`` and ``outputs``, of standard input
and output or, with ``fn_name``, of calls (TACO, APPS). How many passed, and the first failure, is in the
detail.

The program is the last fenced block of the completion, or all of it. It runs in a process of its own
(`code_runner` has the limits), which shares the memory limit of rewards and most of their time: a program
that is too slow is wrong, and no failed rollout. It is run only where the reward is asked for by name.
"""

import ast
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradcurate.rewards.spec import RewardSpec

RUNNER = Path(__file__).with_name("code_runner.py")
SHARE_OF_TIME = 0.7
"""Of a reward call's time that all tests of a program may take, so that the call itself ends in time."""

PASSED_ON = ("LANG", "LD_LIBRARY_PATH", "PATH")
"""Of the environment, what Python may need to start: a program need not see the keys of its user."""

DEFAULT_SECONDS = 10.0
GRACE = 0.2
"""Of the time of the tests, after which a program is killed that has switched off its own limit."""

DEFINING = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.AsyncFunctionDef, ast.Pass)
FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)


def code_reward(spec: RewardSpec) -> Callable[..., dict[str, Any]]:
    """Return the reward, within the time of a specification."""
    seconds = SHARE_OF_TIME * (spec.timeout_seconds or DEFAULT_SECONDS)

    def code(*, solution_str: str, ground_truth: str, **_: object) -> dict[str, Any]:
        tests = parse_tests(ground_truth)
        failures = run_tests(program_in(solution_str), tests, seconds)
        first = next((failure for failure in failures if failure is not None), None)
        passed = failures.count(None)
        detail = {"passed": passed, "tests": len(tests)}
        return {"score": float(passed == len(tests)), **detail, **({"failure": first} if first else {})}

    return code


def program_in(completion: str) -> str:
    """Return the last fenced block of a completion, or all of it where there is none."""
    blocks: list[str] = FENCED.findall(completion)
    return blocks[-1] if blocks else completion


def parse_tests(answer: str) -> list[dict[str, Any]]:
    """Read a problem's answer as tests, as `code_runner` takes them.

    Raises:
        ValueError: It is JSON of another form, or holds no test.
    """
    try:
        parsed = json.loads(answer)
    except ValueError:
        parsed = answer  # Python source
    sources = [parsed] if isinstance(parsed, str) else parsed
    if isinstance(sources, list) and sources and all(isinstance(part, str) for part in sources):
        for source in sources:
            _require_test(source)
        return [{"source": source} for source in sources]
    if isinstance(parsed, dict) and parsed.get("inputs") and len(parsed["inputs"]) == len(parsed["outputs"]):
        pairs = zip(parsed["inputs"], parsed["outputs"], strict=True)
        function = parsed.get("fn_name")
        if function:
            return [_call(function, given, expected) for given, expected in pairs]
        return [{"stdin": _text(given), "stdout": _text(expected)} for given, expected in pairs]
    raise ValueError(
        "the answer of a problem of code must be Python source that asserts, a list of such, or an object "
        "with as many inputs as outputs"
    )


def _require_test(source: str) -> None:
    """Refuse a source that every program would pass, for it tests nothing.

    Raises:
        ValueError: It only defines, as a ``check(candidate)`` that nobody calls does, or is no Python.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"the tests of a problem of code must be Python source: {error}") from error
    if any(map(_is_pytest_only, statements)):
        raise ValueError("the tests of a problem of code are run without pytest: no parameters, no fixtures")
    if not any(map(_tests, statements)):
        raise ValueError(
            "the tests of a problem of code must do something: end those that only define functions with a "
            "call, as in check(add)"
        )


def _tests(statement: ast.stmt) -> bool:
    """Tell whether a statement of a source can fail a program, or is a test that is run."""
    match statement:
        case ast.FunctionDef(name=name):
            return name.startswith("test")
        case ast.ClassDef(bases=bases):
            return any(ast.unparse(base).endswith("TestCase") for base in bases)
        case ast.If(test=condition):
            return "__name__" not in ast.unparse(condition)
        case ast.Expr(value=ast.Constant()):
            return False
        case ast.Expr(value=ast.Call(func=called)):
            return ast.unparse(called) != "unittest.main"
    return not isinstance(statement, DEFINING)


def _is_pytest_only(statement: ast.stmt) -> bool:
    """Tell whether a test needs pytest to be run: parameters, or a class that is no TestCase."""
    match statement:
        case ast.FunctionDef(name=name, args=taken):
            return name.startswith("test") and bool(taken.args or taken.kwonlyargs)
        case ast.ClassDef(name=name):
            return name.startswith("Test") and not _tests(statement)
    return False


def _call(function: str, given: Any, expected: Any) -> dict[str, Any]:
    """Return a test of a call; where arguments are text, with JSON on each line, so may the result be."""
    if not isinstance(given, str):
        return {"function": function, "arguments": given, "expected": expected}
    arguments = [json.loads(line) for line in given.splitlines()]
    try:
        result = json.loads(expected) if isinstance(expected, str) else expected
    except ValueError:
        result = expected
    return {"function": function, "arguments": arguments, "expected": result}


def _text(lines: str | list[Any]) -> str:
    return lines if isinstance(lines, str) else "\n".join(map(str, lines))


def run_tests(program: str, tests: Sequence[dict[str, Any]], seconds: float) -> list[str | None]:
    """Return for each test what failed, or None.

    Args:
        program: Python source.
        tests: As `code_runner` takes them.
        seconds: How long all of them may take; a program that switches off its limit is killed soon after.
    """
    request = json.dumps({"code": program, "tests": list(tests), "seconds": seconds})
    with tempfile.TemporaryDirectory(prefix="gradcurate-code-") as folder:
        answered = _run_apart(request, seconds * (1 + GRACE), folder)
    whole_lines = answered.rpartition(b"\n")[0].splitlines()
    failures = [json.loads(line) for line in whole_lines]
    return [*failures, *["not run: the one before it did not end"] * (len(tests) - len(failures))]


def _run_apart(request: str, seconds: float, folder: str) -> bytes:
    """Return what the runner answers, in a process group that is gone after."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-I", str(RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**passed_on, "OMP_NUM_THREADS": "1", "TMPDIR": folder},
        process_group=0,
    ) as runner:
        try:
            answered, _ = runner.communicate(request.encode(), timeout=seconds)
        except subprocess.TimeoutExpired as late:
            answered = late.output or b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)
    return answered
