"""The reward ``code``: 1 if a generated Python program passes every test of the problem, else 0.

Tests are the problem's answer, in one of the forms that datasets of code have: Python source that
asserts (text, or a JSON list of such), or a JSON object with ``inputs`` and ``outputs``, of standard input
and output or, with ``fn_name``, of calls (TACO, APPS). How many passed, and the first failure, is in the
detail.

The program is the last fenced block of the completion, or all of it. It runs in a process of its own
(`code_runner` has the limits), which shares the memory limit of rewards and most of their time: a program
that is too slow is wrong, and no failed rollout. It is run only where the reward is asked for by name.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
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
GRACE_SECONDS = 1.0
"""After which a program is killed that has switched off its own limit."""

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
    if isinstance(parsed, str) and parsed.strip():
        return [{"source": parsed}]
    if isinstance(parsed, list) and parsed and all(isinstance(part, str) for part in parsed):
        return [{"source": part} for part in parsed]
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


def _call(function: str, given: Any, expected: Any) -> dict[str, Any]:
    """Return a test of a call; arguments and result may be text, with JSON on each line."""
    arguments = [json.loads(line) for line in given.splitlines()] if isinstance(given, str) else given
    result = json.loads(expected) if isinstance(expected, str) else expected
    return {"function": function, "arguments": arguments, "expected": result}


def _text(lines: str | list[Any]) -> str:
    return lines if isinstance(lines, str) else "\n".join(map(str, lines))


def run_tests(program: str, tests: Sequence[dict[str, Any]], seconds: float) -> list[str | None]:
    """Return for each test what failed, or None.

    Args:
        program: Python source.
        tests: As `code_runner` takes them.
        seconds: How long all of them may take.
    """
    request = json.dumps({"code": program, "tests": list(tests), "seconds": seconds})
    with subprocess.Popen(
        [sys.executable, "-I", str(RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"OMP_NUM_THREADS": "1", **{name: os.environ[name] for name in PASSED_ON if name in os.environ}},
        start_new_session=True,
    ) as runner:
        try:
            answered, _ = runner.communicate(request.encode(), timeout=seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired as late:
            answered = late.output or b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)
    whole_lines = answered.rpartition(b"\n")[0].splitlines()
    failures = [json.loads(line) for line in whole_lines]
    return [*failures, *["not run: the one before it did not end"] * (len(tests) - len(failures))]
