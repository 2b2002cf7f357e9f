"""Hub ids load through `datasets`; a local path wins; a failed load says why on one line."""

import os
import subprocess
import sys
import types

import pytest

from gradcurate.errors import ProblemsError
from gradcurate.problems.files import read_rows
from gradcurate.problems.hub import is_hub_id
from gradcurate.problems.rows import Row


@pytest.fixture
def fake_datasets(monkeypatch):
    """A fake of the `datasets` module, as there is no network: it records how it was called."""
    fake = types.ModuleType("datasets")
    fake.calls = []

    def load_dataset(name, config, *, split):
        fake.calls.append((name, config, split))
        return [{"prompt": "q", "answer": 1}]

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name-1.5:test", ("org/name-1.5", None, "test")),
        ("org/name:main:test", ("org/name", "main", "test")),
        ("org/name:train[:100]", ("org/name", None, "train[:100]")),
        ("org/name:main:train[5:100]", ("org/name", "main", "train[5:100]")),
    ],
)
def test_a_hub_id_names_config_and_split(fake_datasets, path, call):
    assert read_rows(path) == (Row(1, {"prompt": "q", "answer": 1}),)
    assert fake_datasets.calls == [call]


@pytest.mark.parametrize("path", ["name", "a/b/c", "/org/name", "org/name:", "org/name:a:b:c", "org/"])
def test_other_paths_are_no_hub_ids(path):
    assert not is_hub_id(path)


def test_a_local_path_wins_over_a_hub_id(fake_datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_rows("org/name")
    (tmp_path / "org" / "name").mkdir(parents=True)
    with pytest.raises(ProblemsError, match="it is a directory"):
        read_rows("org/name")
    assert len(fake_datasets.calls) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("no such split.\nlong advice"), "no such split"), (TimeoutError(), "TimeoutError")],
)
def test_a_failed_load_gives_the_first_line_of_the_reason(fake_datasets, error, reason):
    def load_dataset(*_, **__):
        raise error

    fake_datasets.load_dataset = load_dataset
    with pytest.raises(ProblemsError) as caught:
        read_rows("org/name")
    assert str(caught.value) == (
        f"org/name: expected a dataset that loads from the Hugging Face hub; {reason}. "
        "Check the name, the split and the network, or give a local file (none has this name)."
    )


def test_the_real_library_offline_fails_as_a_problems_error():
    program = "from gradcurate.problems.files import read_rows; read_rows('nobody/nothing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith(
        "gradcurate.errors.ProblemsError: nobody/nothing: expected a dataset that loads from the Hugging Face"
    )


def test_importing_the_package_is_light():
    program = (
        "import sys, gradcurate.problems as p; "
        "print(p.read_problems.__name__, {'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "read_problems set()\n"
