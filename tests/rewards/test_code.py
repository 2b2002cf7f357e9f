"""Generated programs against tests: what passes, what fails and why, and what a program cannot do."""

import json
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from gradcurate.rewards import RewardPool, RewardRequest, RewardSpec, code_runner
from gradcurate.rewards.code import code_reward, parse_tests, program_in, run_tests

ADD = "def add(a, b):\n    return a + b\n"
ECHO = "n = int(input())\nprint(n * 2)\n"


def verdict(program, answer, seconds=10.0):
    spec = RewardSpec(["code"], timeout_seconds=seconds)
    return code_reward(spec)(
        data_source="", solution_str=f"Here:\n```python\n{program}\n```", ground_truth=answer, extra_info={}
    )


def failure(program, source="", seconds=5.0):
    """What one test says: the program's own failure where the test is empty."""
    (found,) = run_tests(program, [{"source": source or "pass"}], seconds)
    return found


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("x = 1", "x = 1"),
        ("a\n```python\nx = 1\n```\nb", "x = 1\n"),
        ("```\nx = 1\n```\nor\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1", "```python\nx = 1"),
    ],
)
def test_the_program_is_the_last_block(completion, program):
    assert program_in(completion) == program


@pytest.mark.parametrize(
    "answer",
    [
        "assert add(1, 2) == 3",
        json.dumps("assert add(1, 2) == 3"),
        json.dumps(["assert add(1, 2) == 3", "assert add(0, 0) == 0"]),
        "def check(candidate):\n    assert candidate(1, 2) == 3\n\ncheck(add)",
        json.dumps({"fn_name": "add", "inputs": [[1, 2], [0.1, 0.2]], "outputs": [[3], [0.3]]}),
        json.dumps({"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [1, 2]]}),
        json.dumps({"fn_name": "add", "inputs": ["1\n2"], "outputs": ["3"]}),
    ],
)
def test_every_form_of_tests_tells_right_from_wrong(answer):
    tests = len(parse_tests(answer))
    assert verdict(ADD, answer) == {"score": 1.0, "passed": tests, "tests": tests}
    wrong = verdict(ADD.replace("+", "- 1 +"), answer)
    assert (wrong["score"], wrong["passed"]) == (0.0, 0)
    assert wrong["failure"]


def test_programs_of_standard_input_and_output():
    answer = json.dumps({"inputs": ["1\n", ["2", "ignored"]], "outputs": ["2\n", ["4"]]})
    assert verdict(ECHO, answer) == {"score": 1.0, "passed": 2, "tests": 2}
    assert verdict("import sys\nprint(2 * int(open(0).readline()), file=sys.stdout)", answer)["score"] == 1.0
    assert verdict("print(2.0)\nimport sys\nsys.exit()", answer) == {
        "score": 0.0,
        "passed": 1,
        "tests": 2,
        "failure": "printed '2.0\\n', not '4'",
    }
    assert verdict("print(2)\nraise SystemExit(1)", answer)["failure"] == "SystemExit: 1"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "must do something"),
        ("def check(candidate):\n    assert candidate(1, 2) == 3", "must do something"),
        ("import unittest\nx = 1\nunittest.main()", "must do something"),
        ("def f(): pass\nif __name__ == '__main__':\n    f()", "must do something"),
        ("def test_add(a, b):\n    assert add(a, b)", "are run without pytest"),
        ("class TestAdd:\n    def test(self): pass\nassert add(1, 2) == 3", "are run without pytest"),
        ("assert add(", "must be Python source"),
        (json.dumps(["assert add(1, 2) == 3", "x = 1"]), "must do something"),
    ],
)
def test_a_source_that_every_program_would_pass_or_fail_is_refused(answer, said):
    with pytest.raises(ValueError, match=said):
        parse_tests(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "def test_add():\n    assert add(1, 2) == 3",
        "from solution import add as f\nassert f(1, 2) == 3",
        "import unittest\nclass T(unittest.TestCase):\n    def test_add(self):\n"
        "        self.assertEqual(add(1, 2), 3)\nif __name__ == '__main__':\n    unittest.main()",
        "import unittest\nclass T(unittest.TestCase):\n    def test_add(self):\n"
        "        self.assertEqual(add(1, 2), 3)\nunittest.main()",
        "for a in range(3):\n    assert add(a, 1) == a + 1",
    ],
)
def test_tests_that_define_themselves_are_run(answer):
    assert verdict(ADD, answer)["score"] == 1.0
    wrong = verdict(ADD.replace("+", "- 1 +"), answer)
    assert wrong["score"] == 0.0
    assert wrong["failure"].startswith("AssertionError")
    assert verdict("def add(a, b):\n    raise SystemExit", answer)["score"] == 0.0


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        ("10**9 + 1", 10**9, False),
        ("1111111111111112", 1111111111111111, False),
        ("10**400 + 1", 10**400, False),
        ("0.1 + 0.2", 0.3, True),
        ("0.3001", 0.3, False),
        ("1e9 + 1", 10**9, False),
        ("2.0", 2, True),
        ("'011'", "11", False),
        ("float('inf')", 1, False),
        ("(1, [2])", [1, [2]], True),
        ("{1: 2}", {"1": 2}, True),
        ("__import__('numpy').array([1, 2])", [1, 2], True),
        ("True", True, True),
    ],
)
def test_whole_numbers_and_text_are_compared_exactly(returned, expected, same):
    test = {"function": "f", "arguments": [], "expected": expected}
    (found,) = run_tests(f"def f():\n    return {returned}", [test], 5.0)
    assert (found is None) == same


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1000000007", "1000000008", False),
        ("0011", "11", False),
        ("0.33333333", "0.3333333333", True),
        ("2.0", "2", True),
        ("1e3 x", "1000 x", True),
        ("nan", "1.0", False),
        ("1 2", "1", False),
    ],
)
def test_printed_numbers_are_the_same_but_for_rounding(printed, expected, same):
    answer = json.dumps({"inputs": [""], "outputs": [expected]})
    assert verdict(f"print({printed!r})", answer)["score"] == float(same)


def test_results_that_are_text_are_text():
    listed = json.dumps({"fn_name": "f", "inputs": [["abc"]], "outputs": ["ca"]})
    assert verdict("def f(s):\n    return s[2] + s[0]", listed)["score"] == 1.0
    lines = json.dumps({"fn_name": "f", "inputs": ['"abc"'], "outputs": ["ca"]})
    assert verdict("def f(s):\n    return s[2] + s[0]", lines)["score"] == 1.0
    number = json.dumps({"fn_name": "f", "inputs": ["7"], "outputs": ["7"]})
    assert verdict("def f(n):\n    return n", number)["score"] == 1.0


def test_solutions_of_exercises_need_no_imports_and_may_have_a_main():
    program = (
        "class Solution:\n    def f(self, a: List[int]) -> Optional[int]:\n        return max(Counter(a))\n"
        "if __name__ == '__main__':\n    n = int(input())\n"
    )
    answer = json.dumps({"fn_name": "f", "inputs": [[[3, 1]]], "outputs": [3]})
    assert verdict(program, answer)["score"] == 1.0


def test_no_folder_is_left_of_a_slow_program(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = run_tests("import time\ntime.sleep(60)", [{"source": "pass"}] * 300, seconds=2)
    assert found == ["not done in time"] * 300
    stubborn = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass"
    run_tests(stubborn, [{"source": "pass"}], seconds=0.5)
    assert not list(tmp_path.iterdir())


WAYS_TO_PRINT = {
    "an executor that is not shut down": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "print(ThreadPoolExecutor().submit(lambda: int(input()) * 2).result())"
    ),
    "a file that is not closed": "o = open(1, 'w', closefd=False)\no.write(str(int(input()) * 2))",
    "before stdout is replaced": "import io, sys\nprint(int(input()) * 2)\nsys.stdout = io.StringIO()",
    "a closed stdout": "import sys\nprint(int(input()) * 2)\nsys.stdout.close()",
    "leaving at once": "import os\nprint(int(input()) * 2, flush=True)\nos._exit(0)",
    "devnull beside": "import os\nopen(os.devnull, 'w').write('x')\nprint(int(input()) * 2)\n__file__",
    "a thread with a larger stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
        "def main():\n    import time\n    time.sleep(0.2)\n    print(int(input()) * 2)\n"
        "threading.Thread(target=main).start()"
    ),
    "bytes": "import sys\nsys.stdout.buffer.write(b'%d' % (int(sys.stdin.buffer.read()) * 2))",
    "a file descriptor": "import os\nos.write(1, str(int(os.read(0, 99)) * 2).encode())",
    "at exit": "import atexit\nn = int(input())\natexit.register(lambda: print(n * 2))",
    "another stdout": (
        "import io, os, sys\nclass Fast(io.StringIO):\n    def flush(self):\n"
        "        os.write(1, self.getvalue().encode())\nsys.stdout = Fast()\nprint(int(input()) * 2)"
    ),
    "asyncio": "import asyncio\nasync def main():\n    print(int(input()) * 2)\nasyncio.run(main())",
    "classes of its own": (
        "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass N:\n    n: 'int'\n"
        "print(pickle.loads(pickle.dumps(N(int(input()) * 2))).n)"
    ),
    "a temporary file": (
        "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n"
        "    f.write(input())\n    f.seek(0)\n    print(int(f.read()) * 2)"
    ),
    "exit": "print(int(input()) * 2)\nexit()",
}


@pytest.mark.parametrize("program", WAYS_TO_PRINT.values(), ids=WAYS_TO_PRINT)
def test_right_programs_pass_however_they_print(program):
    answer = json.dumps({"inputs": ["21\n"], "outputs": ["42"]})
    assert verdict(program, answer) == {"score": 1.0, "passed": 1, "tests": 1}
    wrong = json.dumps({"inputs": ["21\n"], "outputs": ["43"]})
    assert verdict(program, wrong)["failure"].startswith("printed '42")


def test_a_program_does_not_see_the_keys_of_its_user(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert failure("import os\nassert 'OPENAI_API_KEY' not in os.environ") is None


def test_a_method_of_a_solution_is_called():
    program = "class Solution:\n    def add(self, a, b):\n        return (a + b,)\n"
    answer = json.dumps({"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]})
    assert verdict(program, answer)["score"] == 1.0


@pytest.mark.parametrize("answer", ["[]", "{}", "3", '{"inputs": [1], "outputs": []}', "[1]"])
def test_an_answer_that_is_no_test_is_refused(answer):
    with pytest.raises(ValueError, match="the answer of a problem of code must be"):
        parse_tests(answer)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = ", "SyntaxError: invalid syntax (program, line 1)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("exit()", "SystemExit: None"),
        ("import os\nos._exit(0)", "left before the end"),
        ("import os, signal\nos.abort()", "killed by signal 6"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("while True: pass", "not done in time"),
        ("import time\ntime.sleep(60)", "not done in time"),
    ],
)
def test_a_program_that_fails_says_how(program, said):
    assert failure(program, seconds=1.0) == said


def test_a_program_that_ignores_its_limit_is_killed_and_the_others_are_not_run():
    stubborn = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass"
    started = time.monotonic()
    found = run_tests(stubborn, [{"source": "pass"}] * 3, seconds=0.5)
    assert found == ["not run: the one before it did not end"] * 3
    assert time.monotonic() - started < 30


def test_tests_do_not_see_what_others_left():
    program = "import builtins\nassert not hasattr(builtins, 'mark')\nbuiltins.mark = 1"
    test = {"source": "import os\nassert 'mark' not in os.listdir()\nopen('mark', 'w').close()"}
    assert run_tests(program, [test, test], 5.0) == [None, None]


FORBIDDEN = {
    "writing elsewhere": ("open('{outside}/x', 'w')", "PermissionError: open of {outside}/x is not allowed"),
    "removing": (
        "import os\nos.remove('{outside}/kept')",
        "PermissionError: os.remove of {outside}/kept is not allowed",
    ),
    "renaming": (
        "import os\nos.rename('{outside}/kept', 'mine')",
        "PermissionError: os.rename of {outside}/kept is not allowed",
    ),
    "a process": (
        "import subprocess\nsubprocess.run(['true'])",
        "PermissionError: subprocess.Popen is not allowed",
    ),
    "a shell": ("import os\nos.system('true')", "PermissionError: os.system is not allowed"),
    "a fork": ("import os\nos.fork()", "PermissionError: os.fork is not allowed"),
    "a signal": ("import os\nos.kill(os.getppid(), 9)", "PermissionError: os.kill is not allowed"),
    "a library": ("import ctypes\nctypes.CDLL(None)", "ImportError: ctypes.dlopen is not allowed"),
    "the network": (
        "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
        "PermissionError: socket.getaddrinfo is not allowed",
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_program_touches_nothing_but_its_folder(name, tmp_path):
    (tmp_path / "kept").write_text("kept")
    program, said = (
        text.replace("{outside}", str(tmp_path)).replace("{port}", "9") for text in FORBIDDEN[name]
    )
    assert failure(program) == said
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert failure(f"try:\n    {program.splitlines()[-1]}\nexcept Exception: pass") is None  # but may go on


def test_reading_and_its_own_files_are_allowed(tmp_path):
    (tmp_path / "data").write_text("7")
    assert failure(f"assert open('{tmp_path}/data').read() == '7'\nopen('own', 'w').write('1')") is None
    assert failure("import numpy\nassert numpy.ones(3).sum() == 3") is None


def test_the_kernel_cuts_the_network_off_where_it_allows_that(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("127.0.0.1", server.getsockname()[1])
        script = tmp_path / "script.py"
        script.write_text(
            "import runpy, socket\n"
            f"leave = runpy.run_path({code_runner.__file__!r})['_leave_network']\n"
            f"socket.create_connection({address}, timeout=5).close()\n"
            "allowed, reached = leave(), True\n"
            "try:\n"
            f"    socket.create_connection({address}, timeout=5).close()\n"
            "except OSError:\n"
            "    reached = False\n"
            "print(allowed, reached)\n"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout in ("True False\n", "False True\n")


def test_a_slow_or_greedy_program_is_wrong_and_no_failed_rollout():
    requests = [
        RewardRequest("code", f"```python\n{program}\n```", "assert add(1, 2) == 3", {})
        for program in ("while True: pass", "x = bytearray(1 << 33)", ADD)
    ]
    spec = RewardSpec(["code"], memory_mebibytes=1024, timeout_seconds=5.0)
    with RewardPool(spec, workers=1, timeout_seconds=5.0) as pool:
        slow, greedy, right = pool.score(requests)
    assert (slow.reward, slow.detail["failure"]) == (0.0, "not done in time")
    assert (greedy.reward, greedy.detail["failure"]) == (0.0, "MemoryError: ")
    assert (right.reward, right.detail) == (1.0, {"passed": 1, "tests": 1})
