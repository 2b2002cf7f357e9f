import pytest
from typer.testing import CliRunner

from finished_runs import finish
from gradcurate_cli.app import app


@pytest.fixture
def finished(workspace, tmp_path_factory):
    """The settings of a workspace that holds its finished run."""
    return finish(workspace, tmp_path_factory)


@pytest.fixture
def invoke():
    """Return a function that runs the command line with its arguments."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
