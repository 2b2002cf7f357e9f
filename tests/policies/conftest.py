import shutil

import pytest


@pytest.fixture
def copy_of(checkpoint, tmp_path):
    """Copies the tiny checkpoint, so that a test can damage it."""

    def copy(name="copy"):
        return shutil.copytree(checkpoint, tmp_path / name)

    return copy
