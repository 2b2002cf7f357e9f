"""One process works in a run directory at a time, and a dead one hinders nobody."""

import os
import re
import socket
import subprocess
import sys

import pytest

from gradcurate.errors import LockedError
from gradcurate.store.lock import locked

HOLDER = """
import pathlib, subprocess, sys, time
from gradcurate.store.lock import locked

with locked(pathlib.Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    sys.stdin.read()
child.kill()
"""


@pytest.fixture
def holder(tmp_path):
    """A real second process that holds the run directory, and has a child of its own."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.child = int(process.stdout.readline())
        yield process
        process.kill()


def test_the_second_is_told_who_is_first(tmp_path, holder):
    run = tmp_path / "run"
    with pytest.raises(LockedError) as caught, locked(run):
        pass
    held_by = f"process {holder.pid} on {socket.gethostname()} since "
    pattern = (
        re.escape(f"One process at a time may work in {run}; it is held by {held_by}")
        + r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        + re.escape(". Wait for it to end, or choose another --run.")
    )
    assert re.fullmatch(pattern, str(caught.value))
    with locked(tmp_path / "another run"):
        pass


def test_a_process_that_ends_leaves_the_directory_free(tmp_path, holder):
    holder.communicate()
    with locked(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / ".lock").read_text()


def test_a_killed_process_leaves_it_free_even_while_its_children_live(tmp_path, holder):
    holder.kill()
    holder.wait()
    try:
        os.kill(holder.child, 0)  # raises if the child is gone
        with locked(tmp_path / "run"):
            pass
    finally:
        os.kill(holder.child, 9)


def test_an_error_in_the_block_frees_it(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        1 / 0  # noqa: B018
    with locked(tmp_path), pytest.raises(LockedError), locked(tmp_path):
        pass
