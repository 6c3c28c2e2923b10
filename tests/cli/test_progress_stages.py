"""A task that has stages names the one that is going on: beside the bar, or in lines."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmrun.cli import loading
from llmrun.cli import progress as cli_progress
from llmrun.cli.progress import PlainProgress, TerminalProgress
from llmrun.errors import EngineCrashedError
from llmrun.progress import SILENT


class Clock:
    """A clock that goes by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Recorder:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def begin(self, task: str, total: int | None, unit: str = "bytes", done: int = 0) -> None:
        self.calls.append(("begin", task, total))

    def advance(self, amount: int) -> None:
        self.calls.append(("advance", amount))

    def stage(self, text: str) -> None:
        self.calls.append(("stage", text))

    def finish(self) -> None:
        self.calls.append(("finish",))

    def note(self, text: str) -> None:
        self.calls.append(("note", text))


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


def test_loading_is_shown_after_a_second_by_its_phases(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "time", clock)
    worker, prepared = SimpleNamespace(phase="importing"), SimpleNamespace(info=SimpleNamespace(tensor_bytes=4000))
    shown = Recorder()
    with loading.shown_loading(cast("Any", worker), cast("Any", prepared), shown) as report:
        report(0.1)
        assert shown.calls == []
        clock.now += 1.5
        report(0.2)
        worker.phase = "loading weights"
        report(0.5)
    assert shown.calls == [
        *(("begin", "loading", 100), ("stage", "importing"), ("advance", 20)),
        *(("stage", "loading weights"), ("advance", 30), ("advance", 50), ("finish",)),
    ]


def test_loading_that_fails_is_not_shown_as_complete(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "time", clock)
    worker, prepared = SimpleNamespace(phase=""), SimpleNamespace(info=SimpleNamespace(tensor_bytes=4000))
    shown = Recorder()

    def fail() -> None:
        with loading.shown_loading(cast("Any", worker), cast("Any", prepared), shown) as report:
            clock.now += 1.5
            report(0.5)
            raise EngineCrashedError("it died")

    with pytest.raises(EngineCrashedError):
        fail()
    assert shown.calls == [("begin", "loading", 4000), ("advance", 2000), ("finish",)]
