"""How far a batch is: requests done, tokens per second, time left. A bar on a terminal, a line now and then elsewhere.

Tokens are counted when their answer is complete, so that the rate is that of results, not of work under way.
"""

import os
import time
from typing import TYPE_CHECKING, Protocol

from llmrun.cli.output import report_line
from llmrun.cli.progress import LINE_EVERY_SECONDS, format_seconds, say_above

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["BatchCounts", "BatchProgress", "choose_batch_progress"]

_REDRAWS_PER_SECOND = 4.0


class BatchCounts:
    """What was done so far.

    Attributes:
        total: Requests of the batch.
        before: Those that an earlier run has done.
        answered: Those that this run has answered.
        failed: Those that failed in it.
        tokens: Tokens of its answers.
    """

    def __init__(self, total: int, before: int) -> None:
        self.total = total
        self.before = before
        self.answered = self.failed = self.tokens = 0
        self._began: float | None = None

    def begin(self) -> None:
        """Start the clock, when the model is loaded."""
        if self._began is None:
            self._began = time.monotonic()

    @property
    def done(self) -> int:
        """Requests that need nothing more."""
        return self.before + self.answered + self.failed

    @property
    def seconds(self) -> float:
        """Time since the model was loaded."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Tokens per second, of all answers together."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take if it goes on like this; None while nobody can know."""
        done = self.done - self.before
        return None if done == 0 else self.seconds / done * (self.total - self.done)


class BatchProgress(Protocol):
    """Shows the counts."""

    def begin(self, counts: BatchCounts) -> None:
        """Start showing them."""

    def update(self) -> None:
        """They have changed."""

    def note(self, text: str) -> None:
        """Say a line to the user."""

    def finish(self) -> None:
        """Stop. May be called again."""


def choose_batch_progress(*, quiet: bool) -> BatchProgress:
    """Return what fits: nothing when quiet, a bar on a terminal that can draw one, lines elsewhere."""
    if quiet:
        return _Silent()
    if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb":
        return _Bar()
    return _Lines()


def describe(counts: BatchCounts) -> str:
    """Return the counts in words."""
    left = counts.seconds_left
    parts = [f"{counts.done:,} of {counts.total:,}"]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    parts.append(f"{counts.rate:,.1f} tokens/s")
    if left is not None:
        parts.append(f"{format_seconds(left)} left")
    return ", ".join(parts)


class _Silent:
    def begin(self, counts: BatchCounts) -> None:
        """Show nothing."""

    def update(self) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Nothing to stop."""


class _Lines:
    def __init__(self) -> None:
        self._counts: BatchCounts | None = None
        self._last = 0.0

    def begin(self, counts: BatchCounts) -> None:
        """Say nothing yet."""
        self._counts = counts
        self._last = time.monotonic()

    def update(self) -> None:
        """Say how far it is, every ten seconds."""
        if self._counts is None or self._counts.done == self._counts.total:
            return
        if time.monotonic() - self._last >= LINE_EVERY_SECONDS:
            self._last = time.monotonic()
            report_line(f"llmrun: {describe(self._counts)}")

    def note(self, text: str) -> None:
        """Say a line."""
        report_line(f"llmrun: {text}")

    def finish(self) -> None:
        """Nothing to stop."""


class _Bar:
    def __init__(self) -> None:
        self._counts: BatchCounts | None = None
        self._bars: Bars | None = None

    def begin(self, counts: BatchCounts) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._counts = counts
        self._bars = Bars(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True, emoji=False),
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=_REDRAWS_PER_SECOND,
        )
        self._bars.add_task(describe(counts), total=counts.total, completed=counts.done)
        self._bars.start()

    def update(self) -> None:
        """Move it."""
        if self._bars is not None and self._counts is not None:
            self._bars.update(self._bars.task_ids[0], completed=self._counts.done, description=describe(self._counts))

    def note(self, text: str) -> None:
        """Say a line above the bar."""
        say_above(self._bars, text)

    def finish(self) -> None:
        """Take it away."""
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()
