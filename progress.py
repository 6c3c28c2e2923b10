"""How library code reports work that takes time, without knowing how, or whether, it is shown.

The command line draws bars (`llmrun.cli.progress`); everything else gets `SILENT`.
"""

from typing import Literal, Protocol

__all__ = ["SILENT", "Progress", "StagedProgress", "Unit"]

Unit = Literal["bytes", "steps"]


class Progress(Protocol):
    """One task at a time: begin, advance as often as wanted, finish. `note` is a line for the user at any moment."""

    def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
        """Start a task of `total` units (None: unknown), of which `done` were there before."""

    def advance(self, amount: int) -> None:
        """Report `amount` more units."""

    def finish(self) -> None:
        """End the task, whether or not it was completed."""

    def note(self, text: str) -> None:
        """Say one line to the user."""


class StagedProgress(Progress, Protocol):
    """Progress that can name the parts of a task."""

    def stage(self, text: str) -> None:
        """Say what part of the task begins."""


class _Silent:
    """Shows nothing."""

    def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
        """Show nothing."""

    def advance(self, amount: int) -> None:
        """Show nothing."""

    def stage(self, text: str) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


SILENT: StagedProgress = _Silent()
