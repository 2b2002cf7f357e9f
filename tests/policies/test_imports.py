"""A torchvision made for another torch breaks transformers; the message says how to mend it."""

import sys
import types

import pytest
import torch
import transformers

from gradcurate.errors import PolicyError
from gradcurate.policies.imports import import_transformers


@pytest.fixture
def fake_transformers(monkeypatch):
    """A fake of transformers whose lazy import fails with a given error."""

    def install(error):
        fake = types.ModuleType("transformers")

        def fail(name):
            raise error

        fake.__getattr__ = fail
        monkeypatch.setitem(sys.modules, "transformers", fake)

    return install


@pytest.mark.parametrize("kind", [RuntimeError, ImportError])
def test_the_clash_with_torchvision(fake_transformers, kind):
    fake_transformers(kind("operator torchvision::nms does not exist"))
    with pytest.raises(PolicyError) as caught:
        import_transformers()
    assert str(caught.value) == (
        f"transformers must be importable; the installed torchvision does not fit torch {torch.__version__} "
        "(operator torchvision::nms does not exist). "
        "Run `pip uninstall torchvision torchaudio`: gradcurate needs neither."
    )


def test_another_failure_is_not_blamed_on_torchvision(fake_transformers):
    error = RuntimeError("out of memory")
    fake_transformers(error)
    with pytest.raises(RuntimeError) as caught:
        import_transformers()
    assert caught.value is error


def test_without_a_clash_it_is_transformers():
    assert import_transformers() is transformers
