"""Answers on a terminal."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Protocol

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from llmrun.cli.chat.screen.keyboard import Keyboard
from llmrun.cli.chat.screen.markdown import MarkdownStream
from llmrun.cli.chat.screen.pane import Paint, Pane, terminal_size
from llmrun.cli.chat.screen.plain import ExactStream
from llmrun.cli.chat.screen.status import notice_rows, status_rows
from llmrun.cli.chat.screen.thinking import Think, Thinking
from llmrun.cli.chat.turns import AnswerStatus
from llmrun.cli.output import report_line, write_out
from llmrun.engines.conversation.reasoning import Piece, ReasoningSplitter

__all__ = ["ScreenView", "make_paint", "screen_view"]

_DIM = Style(dim=True)
_ASCII = str.maketrans({"•": "*", "◦": "-", "▪": "-", "▌": "|", "─": "-", "│": "|", "┼": "+", "·": "-"})


class _Stream(Protocol):
    def feed(self, text: str) -> None: ...

    def finish(self) -> None: ...

    def break_off(self) -> None: ...


class ScreenView:
    """Shows answers, rendered while they come.

    Args:
        paint: How styles look.
        write: Where everything goes.
        report: Shows a notice, which is not part of an answer.
        think: How reasoning is shown.
        plain: Write the exact text instead of rendering it.
        keyboard: What is quiet while an answer streams.
        size: Returns the columns and rows of the terminal.
    """

    def __init__(
        self,
        paint: Paint,
        write: Callable[[str], None],
        report: Callable[[str], None],
        *,
        think: Think,
        plain: bool,
        keyboard: Keyboard | None = None,
        size: Callable[[], tuple[int, int]] = terminal_size,
    ) -> None:
        self._paint, self._write, self._report, self._size = paint, write, report, size
        self._think, self._plain, self._keyboard = think, plain, keyboard
        self._pane = Pane(paint, write, size)
        self._splitter = ReasoningSplitter()
        self._thinking = Thinking(self._pane, think)
        self._answer: _Stream | None = None
        self._is_streaming = False

    def begin(self) -> None:
        """An answer begins."""
        if self._keyboard:
            self._keyboard.quiet()
        self._pane = Pane(self._paint, self._write, self._size)
        self._splitter = ReasoningSplitter()
        self._thinking = Thinking(self._pane, self._think)
        self._answer = None
        self._is_streaming = True
        self._write("\n")

    def feed(self, text: str) -> None:
        """Show a piece of it."""
        self._show(self._splitter.feed(text))

    def end(self, *, cancelled: bool) -> None:
        """Show the rest, and that the answer was stopped, if it was."""
        self._show(self._splitter.finish())
        self._thinking.finish()
        self._end_answer()
        self._pane.end()
        if cancelled:
            self._write(self._paint.text("(stopped)", _DIM) + "\n")
        self._is_streaming = False

    def status(self, status: AnswerStatus) -> None:
        """Show what it took, and leave a row free."""
        rows = status_rows(status, self._size()[0])
        self._write("".join(self._paint.row(row) + "\n" for row in rows))

    def notice(self, text: str) -> None:
        """Show something that is not part of an answer."""
        if self._is_streaming:
            self._break_off()
        self._report(text)

    def _show(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.kind == "reasoning":
                self._end_answer()
                self._thinking.feed(piece.text)
                continue
            text = piece.text
            if self._thinking.is_open:
                self._thinking.finish()
            if self._answer is None:
                text = text.lstrip("\n")
                if not text:
                    continue
                self._answer = self._make_stream()
            self._answer.feed(text)

    def _end_answer(self) -> None:
        """Settle what there is of the answer; a model may go on thinking after some of it."""
        if self._answer is not None:
            self._answer.finish()
            self._pane.settle()
            self._answer = None

    def _make_stream(self) -> _Stream:
        if not self._plain:
            return MarkdownStream(self._pane)
        self._pane.end()
        return ExactStream(self._write)

    def _break_off(self) -> None:
        if self._answer is not None:
            self._answer.break_off()
        else:
            self._thinking.break_off()


def make_paint(term: str) -> Paint:
    """Return how styles look on the terminal behind standard output."""
    console = Console(markup=False, emoji=False, highlight=False)
    system = None if console.no_color else console.color_system
    return Paint(None if system is None else ColorSystem[_SYSTEMS[system]], is_bare=term == "dumb")


_SYSTEMS = {"standard": "STANDARD", "256": "EIGHT_BIT", "truecolor": "TRUECOLOR", "windows": "WINDOWS"}


def screen_view(*, think: Think, plain: bool, keyboard: Keyboard | None = None) -> ScreenView:
    """Return what shows answers on the terminal behind standard output."""
    term = os.environ.get("TERM", "")
    paint = make_paint(term)

    def report(text: str) -> None:
        if not os.isatty(2):
            report_line(f"llmrun: {text}")
            return
        shown = "".join(paint.row(row) + "\n" for row in notice_rows(text, terminal_size()[0]))
        with contextlib.suppress(OSError):
            os.write(2, shown.encode("utf-8", "replace"))

    return ScreenView(paint, _write, report, think=think, plain=plain or term in ("", "dumb"), keyboard=keyboard)


def _write(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        "•─".encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII)
    write_out(text)
