"""A file is whole or absent, whatever instant its writer dies at."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradcurate.errors import RunDirectoryError
from gradcurate.store.atomic import replacing, write_json

WRITER = """
import os, pathlib, sys
from gradcurate.errors import RunDirectoryError
from gradcurate.store.atomic import replacing

with replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    if sys.argv[2] == "die":
        os.kill(os.getpid(), 9)
"""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(old=st.none() | st.binary(), new=st.binary(), fails=st.booleans())
def test_the_new_content_is_whole_or_the_old_one_stays(tmp_path, old, new, fails):
    path = tmp_path / "folder" / "file"
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if old is not None:
        path.write_bytes(old)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(new)
            assert (path.read_bytes() if path.exists() else None) == old
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert (path.read_bytes() if path.exists() else None) == (old if fails else new)
    assert {entry.name for entry in path.parent.iterdir()} <= {"file"}


def test_missing_folders_are_made(tmp_path):
    with replacing(tmp_path / "a" / "b" / "file") as temporary:
        assert temporary.parent == tmp_path / "a" / "b"
        assert temporary.name.startswith(".file.")
        temporary.write_text("x")
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_other_new_file(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "file", {})
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("fate", "code", "content"), [("die", -signal.SIGKILL, "old"), ("live", 0, "half of the n")]
)
def test_a_killed_writer_leaves_the_old_content(tmp_path, fate, code, content):
    path = tmp_path / "file"
    path.write_text("old")
    assert subprocess.run([sys.executable, "-c", WRITER, str(path), fate]).returncode == code
    assert path.read_text() == content


def test_json_is_for_people_to_read(tmp_path):
    write_json(tmp_path / "file", {"ü": [1]})
    assert (tmp_path / "file").read_text(encoding="utf-8") == '{\n  "ü": [\n    1\n  ]\n}\n'


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "below"
    with pytest.raises(RunDirectoryError) as caught, replacing(path):
        pass
    assert str(caught.value) == (
        f"{path} must be a place that can be written to; File exists. "
        "Check the path, its permissions, and the space left on its disk."
    )


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RunDirectoryError) as caught, replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.received == "No space left on device"
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"file": "old"}
