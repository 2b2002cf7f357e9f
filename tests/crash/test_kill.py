"""A run that is killed at any point and resumed ends in the same bytes as one that never was."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gradcurate
from finished_runs import contents, flags

COMMAND = Path(sys.executable).with_name("gradcurate")
STAGES = ("rollouts", "sketches")
PATIENCE_SECONDS = 60

SLOW_REWARD = """
import time

def parity(data_source, solution_str, ground_truth, extra_info):
    time.sleep(0.01)
    return float(len(solution_str) % 2)
"""


@pytest.fixture
def long_run(workspace, tmp_path):
    """A run of a shard a problem and a shard a sketch, long enough to be met in the middle of each stage."""
    for name, count, first in (("pool", 12, 0), ("validation", 9, 100)):
        rows = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(first, first + count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(SLOW_REWARD)
    return workspace | {"batch_sequences": 4, "batch_tokens": 1, "reward_workers": 1}


def shards(run):
    """Return inode and time of writing of every finished shard."""
    paths = [path for stage in STAGES for path in (Path(run) / stage).glob("[!.]*.parquet")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def count(run, pattern):
    return len(list(Path(run).glob(pattern)))


def reward_workers(folder):
    """Return the reward workers that were started in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, where = (process / "cmdline").read_bytes(), (process / "cwd").readlink()
        except OSError:  # it has just ended, or is another user's
            continue
        if b"gradcurate.rewards.worker" in command and where == Path(folder):
            found.append(process.name)
    return found


def until(condition, process=None):
    """Wait for a condition; whether it came before the process ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.001)
    return bool(condition())


def kill_when(settings, folder, condition):
    """Start the command, kill it as soon as the condition holds, and return the shards it leaves."""
    with subprocess.Popen([COMMAND, "score", *flags(settings)], stderr=subprocess.PIPE) as process:
        met = until(condition, process)
        process.kill()
        assert met, process.stderr.read().decode()
    assert until(lambda: not reward_workers(folder)), "reward workers outlive a killed run"
    return shards(settings["run"])


def plant_temporary_files(run):
    """Leave what a process killed while it wrote leaves: parts of files under temporary names."""
    for name in (
        "rollouts/.pool-0.parquet.x",
        "sketches/.pool-0.parquet.x",
        "validation/.direction.safetensors.x",
    ):
        (Path(run) / name).write_bytes(b"half a file")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc")
def test_a_run_killed_in_every_stage_ends_in_the_same_bytes(long_run, tmp_path):
    gradcurate.score(**long_run | {"run": "runs/whole"})
    killed = long_run | {"run": "runs/killed"}
    run = killed["run"]

    def in_rollouts():
        return count(run, "rollouts/pool-*.parquet") > 0 and reward_workers(tmp_path)

    def in_validation_sketches():
        return count(run, "sketches/validation-*.parquet") > 1

    def in_pool_sketches():
        return count(run, "sketches/pool-*.parquet") > 0

    after_rollouts = kill_when(killed, tmp_path, in_rollouts)
    assert 0 < count(run, "rollouts/*.parquet") < count("runs/whole", "rollouts/*.parquet")
    assert not count(run, "sketches/*.parquet")

    after_validation = kill_when(killed, tmp_path, in_validation_sketches)
    assert not Path(run, "validation/direction.safetensors").exists()
    assert not count(run, "sketches/pool-*.parquet")

    after_pool = kill_when(killed, tmp_path, in_pool_sketches)
    assert count(run, "sketches/pool-*.parquet") < count("runs/whole", "sketches/pool-*.parquet")
    assert not Path(run, "scores.parquet").exists()

    plant_temporary_files(run)
    subprocess.run([COMMAND, "score", *flags(killed)], check=True, capture_output=True)

    assert not [path for path in Path(run).rglob(".*") if path.name != ".lock"]
    whole, resumed = (contents(folder) for folder in ("runs/whole", run))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name] != resumed[name]] == ["run.json"]
    finished = shards(run)
    for earlier in (after_rollouts, after_validation, after_pool):
        assert earlier.items() <= finished.items()
    assert len(after_rollouts) < len(after_validation) < len(after_pool) < len(finished)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc")
def test_a_terminated_run_leaves_nothing_half_written(long_run, tmp_path):
    run = Path(long_run["run"])
    with subprocess.Popen([COMMAND, "score", *flags(long_run)], stderr=subprocess.PIPE) as process:
        assert until(lambda: count(run, "rollouts/pool-*.parquet") > 0, process)
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 143
    assert until(lambda: not reward_workers(tmp_path))
    assert [path.name for path in run.rglob(".*")] == [".lock"]
