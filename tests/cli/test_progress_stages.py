"""A task that has stages names the one that is going on: beside the bar, or in lines."""

import pytest

from llmrun.cli import progress as cli_progress
from llmrun.cli.progress import PlainProgress, TerminalProgress
from llmrun.progress import SILENT


class Clock:
    """A clock that goes by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cli_progress, "time", made)
    return made


def test_lines_name_the_stage(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    progress = PlainProgress()
    progress.stage("of nothing")
    progress.begin("loading", 100, "steps")
    progress.stage("importing")  # so soon after a line that it waits for the next
    clock.now += 2
    progress.advance(20)
    clock.now += 2
    progress.stage("reading \x1b[31mweights")
    clock.now += 20
    progress.finish()
    assert capfd.readouterr().err.splitlines() == [
        "loading",
        "loading: importing, 20 %, 20 of 100, 2.0 s",
        "loading: reading [31mweights",
        "loading: stopped at 20 %, 20 of 100, after 24 s",
    ]


def test_a_bar_names_the_stage_and_the_line_that_it_leaves_the_task(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    progress = TerminalProgress()
    progress.stage("of nothing")
    progress.begin("loading", 100, "steps")
    progress.stage("importing")
    assert progress._bars is not None
    assert progress._bars.tasks[0].description == "importing"
    progress.advance(100)
    clock.now += 12
    progress.finish()
    assert capfd.readouterr().err.splitlines()[-1] == "loading: 12 s"


def test_silence_has_stages_too(capfd: pytest.CaptureFixture[str]) -> None:
    SILENT.stage("importing")
    assert capfd.readouterr().err == ""
