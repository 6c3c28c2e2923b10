"""Text that is not rendered: what a model thinks, broken between words; and an answer exactly as it is."""

from collections.abc import Callable

from rich.style import Style

from llmrun.cli.chat.screen.drawers import TextDrawer
from llmrun.cli.chat.screen.inline import Inline
from llmrun.cli.chat.screen.leaves import Leaf
from llmrun.cli.chat.screen.pane import Pane
from llmrun.cli.chat.screen.rows import PLAIN
from llmrun.cli.output import inert

__all__ = ["ExactStream", "PlainStream"]

_LINE = Leaf(kind="text", line=0, gap=None, lead=(), indent=())
_TAB_CELLS = 4


class PlainStream:
    """Shows text line by line, in one style."""

    def __init__(self, pane: Pane, style: Style) -> None:
        self._pane, self._style = pane, style
        self._line = ""
        self._drawer: TextDrawer | None = None

    def feed(self, text: str) -> None:
        """Show a piece."""
        if self._pane.was_resized() and self._drawer is not None:
            self._drawer.break_off(in_row=self._pane.last_row_fits())
        first, *others = inert(text).expandtabs(_TAB_CELLS).split("\n")
        self._extend(first)
        for other in others:
            self._end_line()
            self._extend(other)

    def finish(self) -> None:
        """Settle the last line."""
        if self._line:
            self._end_line()

    def break_off(self) -> None:
        """End the row, as something else is shown in the midst of the text."""
        if self._drawer is not None:
            self._drawer.break_off(in_row=False)
        self._pane.end()

    def _extend(self, text: str) -> None:
        self._line += text
        if self._line.strip():
            self._drawer = self._drawer or TextDrawer(self._pane, is_first=True, read=self._read)
            self._drawer.update(_LINE.with_content(self._line), is_complete=False)

    def _end_line(self) -> None:
        if self._drawer is None:
            self._pane.show([()])
        else:
            self._drawer.update(_LINE.with_content(self._line.rstrip()), is_complete=True)
        self._pane.settle()
        self._line, self._drawer = "", None

    def _read(self, source: str, base: Style = PLAIN, *, is_complete: bool) -> Inline:
        del is_complete
        return Inline(((source, base + self._style),), "", len(source.rstrip()))


class ExactStream:
    """Writes text as it is; the terminal breaks its lines."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._is_at_start = True

    def feed(self, text: str) -> None:
        """Write a piece."""
        text = inert(text)
        if text:
            self._write(text)
            self._is_at_start = text.endswith("\n")

    def finish(self) -> None:
        """End the last line."""
        self.break_off()

    def break_off(self) -> None:
        """End the line, as something else is shown in the midst of the text."""
        if not self._is_at_start:
            self._write("\n")
            self._is_at_start = True
