"""A terminal that tests can look at: what is written to it, and what it shows."""

import re
from collections.abc import Callable

import pyte
import pytest
from rich.color import ColorSystem

from llmrun.cli.chat.screen.pane import Paint, Pane

_OWN = re.compile(r"\x1b\[[0-9;]*[mAJK]")


class Terminal:
    """An emulated terminal, with all that has scrolled away."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.written = ""
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self._screen)

    def write(self, text: str) -> None:
        self.written += text
        for character in text:  # the emulator drops what follows a zero-width character in the same call
            self._stream.feed(character)

    def size(self) -> tuple[int, int]:
        return self.columns, self.rows

    def resize(self, columns: int, rows: int) -> None:
        """Become larger; the emulator has no way to break rows anew for a smaller one."""
        assert columns >= self.columns
        self.columns, self.rows = columns, rows
        self._screen.resize(rows, columns)

    def lines(self) -> list[str]:
        """Return everything that was ever shown, without the blank end."""
        return [line.rstrip() for line in self._text(lambda cell: str(cell.data))]

    def styled(self) -> list[str]:
        """Return the same with the looks of every character."""

        def look(cell: pyte.screens.Char) -> str:
            marks = (cell.bold, cell.italics, cell.underscore, cell.strikethrough, cell.fg != "default")
            return str(cell.data) + "".join(mark for mark, is_on in zip("biusc", marks, strict=True) if is_on)

        return self._text(look)

    def _text(self, look: Callable[[pyte.screens.Char], str]) -> list[str]:
        kept = [*self._screen.history.top, *(self._screen.buffer[row] for row in range(self._screen.lines))]
        lines = ["".join(look(line[column]) for column in range(self.columns)) for line in kept]
        while lines and not lines[-1].strip():
            lines.pop()
        return lines

    def foreign(self) -> str:
        """Return the control characters that were written, but newlines and what the pane itself needs."""
        return "".join(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]",
                                  _OWN.sub("", self.written).replace("\r", "")))  # fmt: skip


@pytest.fixture
def new_terminal() -> type[Terminal]:
    return Terminal


@pytest.fixture
def new_pane() -> Callable[[Terminal], Pane]:
    return lambda terminal: Pane(Paint(ColorSystem.EIGHT_BIT), terminal.write, terminal.size)
