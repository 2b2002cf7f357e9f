"""The worker pool: every outcome in its place, whatever single rewards do to their process."""

import os
import shlex
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from gradcurate.errors import RewardError
from gradcurate.rewards import RewardPool, RewardRequest, RewardSpec

REWARD = """
import os, signal, subprocess, sys, time

def score(data_source, solution_str, ground_truth, extra_info):
    if solution_str == "hang":
        while True: time.sleep(1)
    if solution_str == "hang with a child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(extra_info["pid_file"], "w").write(f"{os.getpid()} {child.pid}")
        child.wait()
    if solution_str == "raise": return 1 / 0
    if solution_str == "nan": return float("nan")
    if solution_str == "text": return "abc"
    if solution_str == "kill": os.kill(os.getpid(), 9)
    if solution_str == "leave": os._exit(3)
    if solution_str == "exit": sys.exit("enough")
    if solution_str == "interrupt": os.kill(os.getpid(), signal.SIGINT)
    if solution_str == "fork": os.fork()
    if solution_str == "print":
        print('{"reward": 99, "detail": {}}', flush=True)
        os.write(1, b'{"reward": 99, "detail": {}}\\n')
    if solution_str == "read": return len(sys.stdin.read())
    if solution_str == "dict": return {"score": 0.5, "acc": True}
    if solution_str == "memory": return float(len(bytearray(3 << 30)))
    if solution_str == "torch": return float("torch" in sys.modules)
    return float(len(solution_str))
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "mine.py").write_text(REWARD)
    return f"{tmp_path / 'mine.py'}:score"


def request(text, **extra_info):
    return RewardRequest("source", text, "answer", extra_info)


def is_running(pid):
    """Return whether a process exists and is more than a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids):
    limit = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < limit, f"still running: {[pid for pid in pids if is_running(pid)]}"
        time.sleep(0.02)


def pids_of(pool):
    return [worker._process.pid for worker in pool._workers]


@pytest.mark.parametrize("workers", [1, 3])
def test_outcomes_come_in_the_order_of_the_requests(workers):
    requests = [RewardRequest("s", str(i), str(i if i % 3 else -1), {}) for i in range(40)]
    with RewardPool(RewardSpec(["exact"]), workers, 30) as pool:
        assert [outcome.reward for outcome in pool.score(requests)] == [float(i % 3 > 0) for i in range(40)]
        assert pool.score([]) == []


def test_a_failure_costs_its_own_rollout_and_no_other(spec):
    failures = {
        "raise": "ZeroDivisionError: division by zero",
        "nan": "returned nan",
        "text": "returned 'abc', not a number",
        "kill": "the worker process died (exit code -9)",
        "leave": "the worker process died (exit code 3)",
        "exit": "SystemExit: enough",
    }
    texts = [text for failure in failures for text in ("fine", failure, "good one")]
    with RewardPool(RewardSpec([spec]), 2, 30) as pool:
        outcomes = pool.score([request(text) for text in texts])
    for text, outcome in zip(texts, outcomes, strict=True):
        if text in failures:
            assert (outcome.reward, outcome.detail) == (None, {"error": failures[text]})
        else:
            assert (outcome.reward, outcome.detail) == (float(len(text)), {})


def test_odd_behaviour_that_is_no_failure(spec):
    texts = ["print", "read", "dict", "interrupt", "fork", "torch", "x" * 300_000]
    with RewardPool(RewardSpec([spec]), 1, 30) as pool:
        outcomes = pool.score([request(text) for text in texts])
    assert [outcome.reward for outcome in outcomes] == [5.0, 0.0, 0.5, 9.0, 4.0, 0.0, 300_000.0]
    assert outcomes[2].detail == {"acc": True}


def test_a_late_worker_is_killed_with_its_children_and_replaced(spec, tmp_path):
    pid_file = tmp_path / "pids"
    late = request("hang with a child", pid_file=str(pid_file))
    with RewardPool(RewardSpec([spec]), 2, 3) as pool:
        outcomes = pool.score([request("a"), late, request("bb"), request("ccc")])
        assert [outcome.reward for outcome in outcomes] == [1.0, None, 2.0, 3.0]
        assert outcomes[1].detail == {"error": "timed out after 3 s"}
        assert len(pool._workers) == 2
        wait_until_gone([int(pid) for pid in pid_file.read_text().split()])


def test_a_worker_that_died_idle_costs_nobody(spec):
    with RewardPool(RewardSpec([spec]), 2, 30) as pool:
        for pid in pids_of(pool):
            os.kill(pid, 9)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and the pool has yet to notice
        assert [outcome.reward for outcome in pool.score([request("a"), request("bb")])] == [1.0, 2.0]


def test_a_closed_pool_leaves_no_process_and_no_descriptor_behind(spec):
    before = sorted(os.listdir("/proc/self/fd"))
    with RewardPool(RewardSpec([spec]), 2, 30) as pool:
        pool.score([request("kill"), request("a")])
        pids = pids_of(pool)
        assert all(is_running(pid) for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert sorted(os.listdir("/proc/self/fd")) == before
    pool.close()
    with pytest.raises(ValueError, match=r"^a closed RewardPool scores nothing; open another$"):
        pool.score([request("a")])


def test_an_interrupted_pool_is_closed(spec):
    with RewardPool(RewardSpec([spec]), 1, 30) as pool:
        with pytest.raises(TypeError):
            pool.score([request("a"), request("b", no_json=object())])
        with pytest.raises(ValueError, match="closed"):
            pool.score([request("a")])


def test_a_reward_that_cannot_be_loaded_is_an_error_of_the_parent(tmp_path):
    with pytest.raises(RewardError) as caught:
        RewardPool(RewardSpec(["nummeric"]), 2, 30)
    assert caught.value.args == (
        "a reward is one of math, exact, numeric, choice, code, reasoning_gym, path/to/file.py:function, "
        "or a judge's .toml",
        "got 'nummeric'",
        "Choose one of these names, or point to your own function. Did you mean 'numeric'?",
    )


def test_a_worker_that_dies_while_loading_shows_its_last_words(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import os\nos.write(2, b'no licence found')\nos._exit(7)\n")
    with pytest.raises(RewardError) as caught:
        RewardPool(RewardSpec([f"{path}:score"]), 1, 30)
    assert caught.value.args == (
        f"the reward {path}:score must load in a worker process",
        "the worker process died (exit code 7); its stderr ends with: no licence found",
        "See it fail: python -m gradcurate.rewards.worker "
        + shlex.quote(RewardSpec([f"{path}:score"]).to_json()),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel kills orphans on Linux only")
def test_a_killed_parent_leaves_no_endless_reward_behind(spec):
    program = """
        import sys
        from gradcurate.rewards import RewardPool, RewardRequest, RewardSpec
        pool = RewardPool(RewardSpec([sys.argv[1]]), 1, 600)
        print(pool._workers[0]._process.pid, flush=True)
        pool.score([RewardRequest("s", "hang", "a", {})])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), spec]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        parent.kill()
    wait_until_gone([worker])


def test_hangs_errors_and_deaths_cost_their_own_rollouts_and_bounded_time(spec):
    """Of 200, every tenth hangs, every seventh of the others raises, every fiftieth is killed."""

    def behaviour(number):
        for step, text in ((50, "kill"), (10, "hang"), (7, "raise")):
            if number % step == 0:
                return text
        return "x" * (number % 5)

    texts, workers, limit_seconds = [behaviour(number) for number in range(1, 201)], 2, 0.5
    started = time.monotonic()
    with RewardPool(RewardSpec([spec]), workers, limit_seconds) as pool:
        outcomes = pool.score([request(text) for text in texts])
    taken = time.monotonic() - started
    reasons = {"kill": "died", "hang": "timed out after 0.5 s", "raise": "ZeroDivisionError"}
    for text, outcome in zip(texts, outcomes, strict=True):
        if text in reasons:
            assert outcome.reward is None
            assert reasons[text] in outcome.detail["error"]
        else:
            assert outcome.reward == len(text)
    lost = texts.count("hang") + texts.count("kill")
    assert taken < (lost / workers + 2) * (limit_seconds + 10)  # each lost worker starts anew


def test_a_reward_that_takes_too_much_memory_fails_alone(spec):
    with RewardPool(RewardSpec([spec], memory_mebibytes=1024), 1, 30) as pool:
        outcomes = pool.score([request("memory"), request("ab")])
    assert outcomes[0].detail == {"error": "MemoryError: "}
    assert outcomes[1].reward == 2.0
    with RewardPool(RewardSpec([spec]), 1, 30) as pool:
        assert pool.score([request("memory")])[0].reward == 3 << 30


def test_a_pool_that_another_thread_closes_stops_waiting(spec):
    pool, raised = RewardPool(RewardSpec([spec]), 1, 600), []

    def score():
        try:
            pool.score([request("hang")])
        except (ValueError, OSError) as error:
            raised.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    time.sleep(0.2)
    pool.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_workers_outlive_the_thread_that_asked(tmp_path):
    """One is replaced while a thread waits for it, and still loads when that thread has ended."""
    (tmp_path / "slow.py").write_text(f"import time\ntime.sleep(1)\n{REWARD}")
    with RewardPool(RewardSpec([f"{tmp_path / 'slow.py'}:score"]), 1, 0.5) as pool:
        thread = threading.Thread(target=lambda: pool.score([request("hang")]))
        thread.start()
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert pool.score([request("ab")])[0].reward == 2.0
