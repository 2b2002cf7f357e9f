"""The parent's end of one reward worker: its process, its pipes, and what it is busy with.

Nothing here waits: the pipes do not block, and `RewardPool` says when to read and write.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, final

from gradcurate.rewards.spec import RewardSpec

START_LIMIT_SECONDS = 120.0
STDERR_TAIL_BYTES = 2000


@final
class WorkerProcess:
    """A worker that is loading its reward, then idle or busy with one request.

    It leads a process group of its own, so that killing it takes whatever the reward started with it.

    Attributes:
        ready: The reward is loaded.
        position: Which request it is busy with, or None.
        deadline: When, on the monotonic clock, it must have answered.
    """

    def __init__(self, spec: RewardSpec) -> None:
        # Appending, so that the file can be emptied while the worker writes to it.
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by kill()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradcurate.rewards.worker", spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.requests, self.answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.answers, False)
        self._unsent, self._unread = b"", b""
        self.ready = False
        self.position: int | None = None
        self.deadline = time.monotonic() + START_LIMIT_SECONDS

    def assign(self, position: int, request: dict[str, Any], seconds: float) -> None:
        """Take on a request; its time starts now."""
        # What earlier requests printed is of no use, and would fill the disk.
        os.ftruncate(self._stderr.fileno(), 0)
        self.position, self.deadline = position, time.monotonic() + seconds
        self._unsent = json.dumps(request).encode() + b"\n"

    def send(self) -> bool:
        """Write what the pipe takes, and return whether nothing is left to write."""
        try:
            self._unsent = self._unsent[os.write(self.requests, self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent = b""  # it died: the end of its answers tells
        return not self._unsent

    def receive(self) -> dict[str, Any] | None:
        """Return the worker's message once it is whole, else None.

        Raises:
            EOFError: If the worker is gone.
        """
        with contextlib.suppress(BlockingIOError):
            received = os.read(self.answers, 1 << 20)
            if not received:
                raise EOFError
            self._unread += received
        line, end, rest = self._unread.partition(b"\n")
        if not end:
            return None
        self._unread = rest
        message: dict[str, Any] = json.loads(line)
        return message

    def rest(self) -> None:
        """Be idle: ready, with no request and no deadline."""
        self.ready, self.position, self.deadline = True, None, math.inf

    def is_alive(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def exit_code(self) -> int | None:
        """Return the exit code of a process that is about to end, negative for a signal."""
        # The pipe closes a moment before the process can be waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=5)
        return None

    def stderr_tail(self) -> str:
        """Return the end of what the worker wrote to stderr."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), STDERR_TAIL_BYTES, max(0, size - STDERR_TAIL_BYTES)).decode(
            errors="replace"
        )

    def kill(self) -> None:
        """End the process and its whole group, and release all that it held here."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()
