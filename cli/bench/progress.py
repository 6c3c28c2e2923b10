"""The bar of a measurement, drawn between two repetitions only: one that moves by itself would be measured too."""

import os
import time
from typing import TYPE_CHECKING

from llmrun.cli.output import inert, report_line
from llmrun.cli.progress import PlainProgress, format_seconds, say_above
from llmrun.progress import SILENT, StagedProgress, Unit

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["StillProgress", "choose_bench_progress"]


def choose_bench_progress(*, quiet: bool) -> StagedProgress:
    """Return a bar on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return SILENT
    if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb":
        return StillProgress()
    return PlainProgress()


class StillProgress:
    """A bar with the time that is left, redrawn when something was done."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._began = 0.0
        self._stage = ""

    def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        del unit
        self._began = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left", markup=False),
            console=Console(stderr=True, emoji=False),
            transient=True,
            expand=True,
            auto_refresh=False,
            speed_estimate_period=3600,
        )
        self._bars.add_task(inert(task), total=total, completed=done)
        self._bars.start()
        self._bars.refresh()

    def advance(self, amount: int) -> None:
        """Count what was done."""
        if self._bars is not None and amount:
            self._bars.advance(self._bars.task_ids[0], amount)
            self._bars.refresh()

    def stage(self, text: str) -> None:
        """Say what is being done."""
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], description=inert(text))
            self._bars.refresh()

    def finish(self) -> None:
        """Remove the bar, and say how long it took."""
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()
            report_line(f"measured in {format_seconds(time.monotonic() - self._began)}")

    def note(self, text: str) -> None:
        """Say a line above the bar."""
        say_above(self._bars, text)
