import io
import re

import pytest
from rich.console import Console

from gradcurate_cli import progress
from gradcurate_cli.progress import Bars, Lines, progress_for


@pytest.fixture
def screen():
    return io.StringIO()


def console_on(screen, terminal):
    return Console(file=screen, force_terminal=terminal, width=100)


def test_terminals_get_bars_files_get_lines_and_quiet_gets_nothing(screen):
    assert isinstance(progress_for(console_on(screen, True), quiet=False), Bars)
    assert isinstance(progress_for(console_on(screen, False), quiet=False), Lines)
    assert progress_for(console_on(screen, True), quiet=True) is None


def test_lines_tell_the_start_the_middle_and_the_end(screen, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Lines(console_on(screen, False)).task("sketch pool", total=4, done=1, unit="rollouts") as task:
        task.advance(1)
    start, middle, end = screen.getvalue().splitlines()
    assert start == "sketch pool: 4 rollouts, 1 of them finished before"
    assert middle == "sketch pool: 2/4 rollouts, 0 s left"
    assert end == "sketch pool: done in 0 s"


def test_lines_tell_the_rate_where_tokens_are_counted(screen):
    with Lines(console_on(screen, False)).task("sketch pool", total=4, done=1, unit="rollouts") as task:
        task.advance(3, tokens=30)
    assert re.fullmatch(r"sketch pool: done in 0 s \(\d+ tokens/s\)", screen.getvalue().splitlines()[-1])


def test_a_stage_that_owes_nothing_is_one_line(screen):
    with Lines(console_on(screen, False)).task("sketch pool", total=4, done=4, unit="rollouts"):
        pass
    assert screen.getvalue() == "sketch pool: 4 rollouts, 4 of them finished before\n"


def test_a_bar_counts_up_to_its_total(screen):
    with Bars(console_on(screen, True)).task("roll out pool", total=4, done=1, unit="rollouts") as task:
        task.advance(3, tokens=30)
    assert "roll out pool" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "tokens/s" in screen.getvalue()
