"""What a model thinks before it answers: shown, shown dimly, or only that and how long it thought."""

import time
from collections.abc import Callable
from typing import Literal

from rich.style import Style

from llmrun.cli.chat.screen.pane import Pane
from llmrun.cli.chat.screen.plain import PlainStream
from llmrun.cli.chat.screen.rows import PLAIN

__all__ = ["Think", "Thinking"]

Think = Literal["show", "hide", "dim"]
_DIM = Style(dim=True)
_FOLD = Style(dim=True, italic=True)


class Thinking:
    """Shows the reasoning of one answer.

    Args:
        pane: Where it goes.
        think: How.
        clock: Returns seconds.
    """

    def __init__(self, pane: Pane, think: Think, clock: Callable[[], float] = time.monotonic) -> None:
        self._pane, self._clock = pane, clock
        self._stream = None if think == "hide" else PlainStream(pane, _DIM if think == "dim" else PLAIN)
        self._began: float | None = None
        self._text_began = False

    @property
    def is_open(self) -> bool:
        """Whether the model is thinking."""
        return self._began is not None

    def feed(self, text: str) -> None:
        """Show a piece of it."""
        if self._began is None:
            self._began = self._clock()
        if self._stream is None:
            if self._pane.was_resized():
                self._pane.settle(keep=1 if self._pane.last_row_fits() else 0)
            self._fold("thinking, {}")
            return
        if not self._text_began:
            text = text.lstrip()
        if text:
            self._text_began = True
            self._stream.feed(text)

    def finish(self) -> None:
        """Say how long it took, and leave a row between it and the answer."""
        if self._began is None:
            return
        if self._stream is not None:
            self._stream.finish()
            self._pane.settle()
        self._fold("thought for {}")
        self._pane.settle()
        self._pane.show([()])
        self._pane.settle()
        self._began, self._text_began = None, False

    def break_off(self) -> None:
        """End the row, as something else is shown meanwhile."""
        if self._stream is not None and self._began is not None:
            self._stream.break_off()
        else:
            self._pane.end()

    def _fold(self, text: str) -> None:
        assert self._began is not None
        seconds = self._clock() - self._began
        shown = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        self._pane.show([((text.format(shown)[: self._pane.columns], _FOLD),)])
