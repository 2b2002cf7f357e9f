"""The error tree is a contract: scripts branch on exit codes and on the stdlib base."""

import copy
import inspect
import pickle

import pytest

from gradcurate import errors
from gradcurate.errors import GradcurateError, first_line

TREE = {
    "GradcurateError": (Exception, 1),
    "InputError": (ValueError, 2),
    "SettingsError": (ValueError, 2),
    "ProblemsError": (ValueError, 2),
    "PolicyError": (ValueError, 2),
    "RewardError": (ValueError, 2),
    "RolloutsError": (ValueError, 2),
    "RunDirectoryError": (ValueError, 2),
    "NoSignalError": (Exception, 3),
    "LockedError": (Exception, 4),
    "EngineError": (Exception, 5),
    "UnreliableError": (Exception, 6),
    "NumericalError": (Exception, 1),
    "OutOfMemoryError": (Exception, 1),
}
CLASSES = dict(inspect.getmembers(errors, inspect.isclass))
EVERY_CLASS = pytest.mark.parametrize("name", list(TREE))


def test_the_tree_is_complete():
    assert {name for name, kind in CLASSES.items() if issubclass(kind, Exception)} == set(TREE)


@EVERY_CLASS
def test_base_and_exit_code(name):
    base, exit_code = TREE[name]
    assert issubclass(CLASSES[name], GradcurateError)
    assert issubclass(CLASSES[name], ValueError) == (base is ValueError)
    assert CLASSES[name].exit_code == exit_code


@EVERY_CLASS
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_an_error_survives_the_way_between_processes(name, again):
    error = CLASSES[name]("K must be even", "7 was given", "Use 8.")
    restored = again(error)
    assert type(restored) is type(error)
    assert (restored.expected, restored.received, restored.remedy) == error.args
    assert str(restored) == str(error) == "K must be even; 7 was given. Use 8."


@EVERY_CLASS
def test_a_message_has_three_parts(name):
    with pytest.raises(TypeError):
        CLASSES[name]("only one")


@pytest.mark.parametrize(
    ("error", "clause"),
    [
        (ValueError("bad header.\nsee the manual"), "bad header"),
        (ValueError("  \n see above!  "), "see above"),
        (OSError(), "OSError"),
        (ValueError("v1.5"), "v1.5"),
    ],
)
def test_an_error_of_another_library_becomes_one_clause(error, clause):
    assert first_line(error) == clause
