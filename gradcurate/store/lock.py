"""One process works in a run directory at a time.

The lock is the operating system's own (flock), so it dies with its process and never needs a
person. The file's text, who holds it and since when, is for the message alone.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gradcurate.errors import LockedError
from gradcurate.store.atomic import writing

LOCK_NAME = ".lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run directory for the length of the block.

    Raises:
        LockedError: Another process holds it.
        RunDirectoryError: It cannot be made or written to.
    """
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        file = (run / LOCK_NAME).open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LockedError(
                f"One process at a time may work in {run}",
                f"it is held by {file.read().strip() or 'a process that is just starting'}",
                "Wait for it to end, or choose another --run.",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%F %T} UTC\n")
        file.flush()
        yield
