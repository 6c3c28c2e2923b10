"""Progress for people: a bar on a terminal, plain lines in a pipe or a log, nothing with --quiet. Always on stderr.

Names of tasks can come from a server, so they are made inert and never read as markup. rich is imported when the first
bar is drawn, because most commands never draw one.
"""

import os
import time
from typing import TYPE_CHECKING

from llmrun.cli.output import inert, report_line
from llmrun.progress import SILENT, StagedProgress, Unit

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, TextColumn

__all__ = ["PlainProgress", "TerminalProgress", "choose_progress", "format_seconds", "format_size", "say_above"]

LINE_EVERY_SECONDS = 10.0
LINE_EVERY_PERCENT = 10
LINE_GAP_SECONDS = 1.0  # between two lines at least, however fast the percents go by
WORTH_A_LINE_SECONDS = 1.0


def choose_progress(quiet: bool) -> StagedProgress:
    """Return what fits: nothing when quiet, a bar on a terminal that can draw one, plain lines elsewhere."""
    if quiet:
        return SILENT
    if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb":
        return TerminalProgress()
    return PlainProgress()


def format_size(count: int) -> str:
    """Return a number of bytes for people: `93.8 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def format_seconds(seconds: float) -> str:
    """Return a duration for people: `0.4 s`, `42 s`, `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Task:
    """What is known about the running task; both kinds of progress end it with the same line."""

    def __init__(self, name: str, total: int | None, unit: Unit, done: int) -> None:
        self.name = inert(name).replace("\n", " ")
        self.total = total
        self.unit: Unit = unit
        self.done = done
        self.stage = ""
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def percent(self) -> int:
        return min(100, 100 * self.done // self.total) if self.total else 0

    def amount(self, count: int) -> str:
        return format_size(count) if self.unit == "bytes" else str(count)

    @property
    def label(self) -> str:
        return f"{self.name}: {self.stage}" if self.stage else self.name

    def so_far(self) -> str:
        if self.total is None:
            return self.amount(self.done)
        return f"{self.percent} %, {self.amount(self.done)} of {self.amount(self.total)}"

    def summary(self) -> str:
        took = format_seconds(self.seconds)
        if self.total is None:
            what = f"{self.amount(self.done)} in " if self.done else ""
            return f"{self.name}: {what}{took}"
        if self.done < self.total:
            return f"{self.name}: stopped at {self.so_far()}, after {took}"
        return f"{self.name}: {self.amount(self.total) + ' in ' if self.unit == 'bytes' else ''}{took}"


class PlainProgress:
    """Lines on stderr: one at the start, one now and then, one at the end."""

    def __init__(self) -> None:
        self._task: _Task | None = None
        self._last_line = 0.0
        self._last_percent = 0

    def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
        """Say what starts, how much it is, and what was there before."""
        self._task = _Task(task, total, unit, done)
        size = f" ({self._task.amount(total)})" if total is not None and unit == "bytes" else ""
        before = f", going on at {self._task.amount(done)}" if done else ""
        report_line(f"{self._task.name}{size}{before}")
        self._last_line, self._last_percent = time.monotonic(), self._task.percent

    def advance(self, amount: int) -> None:
        """Count, and say a line every ten percent or ten seconds."""
        task = self._task
        if task is None:
            return
        task.done += amount
        since = time.monotonic() - self._last_line
        stepped = task.percent >= self._last_percent + LINE_EVERY_PERCENT and since >= LINE_GAP_SECONDS
        if (stepped or since >= LINE_EVERY_SECONDS) and task.done != task.total:
            separator = ", " if task.stage else ": "
            report_line(f"{task.label}{separator}{task.so_far()}, {format_seconds(task.seconds)}")
            self._last_line, self._last_percent = time.monotonic(), task.percent

    def stage(self, text: str) -> None:
        """Say the stage at once, or with the next line if one has just been said."""
        if self._task is None:
            return
        self._task.stage = inert(text)
        if time.monotonic() - self._last_line >= LINE_GAP_SECONDS:
            report_line(self._task.label)
            self._last_line = time.monotonic()

    def finish(self) -> None:
        """Say how long it took; a moment is not worth a line."""
        task, self._task = self._task, None
        if task is not None and (task.total is not None or task.seconds >= WORTH_A_LINE_SECONDS):
            report_line(task.summary())

    def note(self, text: str) -> None:
        """Say a line."""
        report_line(f"llmrun: {text}")


class TerminalProgress:
    """A bar at the bottom of the terminal, which leaves one line behind if it took a while."""

    def __init__(self) -> None:
        self._task: _Task | None = None
        self._bars: Bars | None = None

    def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
        """Draw a bar."""
        self.finish()
        self._task = _Task(task, total, unit, done)
        self._bars = _bytes_bar() if unit == "bytes" else _steps_bar()
        self._bars.add_task(self._task.name, total=total, completed=done)
        self._bars.start()

    def advance(self, amount: int) -> None:
        """Move the bar."""
        if self._task is not None and self._bars is not None:
            self._task.done += amount
            self._bars.advance(self._bars.task_ids[0], amount)

    def stage(self, text: str) -> None:
        """Show the stage beside the bar."""
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], description=inert(text))

    def finish(self) -> None:
        """Take the bar away."""
        task, bars, self._task, self._bars = self._task, self._bars, None, None
        if task is None or bars is None:
            return
        bars.stop()
        if task.seconds >= WORTH_A_LINE_SECONDS:
            report_line(task.summary())

    def note(self, text: str) -> None:
        """Say a line above the bar."""
        say_above(self._bars, text)


def say_above(bars: "Bars | None", text: str) -> None:
    """Say a line above a bar, or just say it where none is drawn."""
    if bars is None:
        report_line(f"llmrun: {text}")
    else:
        bars.console.print(inert(f"llmrun: {text}"), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _bytes_bar() -> "Bars":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return _bars(
        _name_column(),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )


def _steps_bar() -> "Bars":
    from rich.progress import BarColumn, TaskProgressColumn, TimeElapsedColumn

    return _bars(_name_column(), BarColumn(bar_width=None), TaskProgressColumn(), TimeElapsedColumn())


def _name_column() -> "TextColumn":
    from rich.progress import TextColumn
    from rich.table import Column

    column = Column(no_wrap=True, overflow="ellipsis", max_width=30)
    return TextColumn("{task.description}", markup=False, table_column=column)


def _bars(*columns: "ProgressColumn") -> "Bars":
    from rich.console import Console
    from rich.progress import Progress as Bars

    return Bars(
        *columns,
        console=Console(stderr=True, emoji=False),
        transient=True,
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
