"""The end of what a terminal shows: rows that may still change, below others that never will.

The cursor rests behind the last row. Of the rows that may change, only those that do are written again, from the first
cell on that differs; where that is the end of the last row, nothing but the new text is written. Whatever is written
at once goes out in one piece. Rows that have left the screen are beyond reach and are never counted on: the caller
settles rows before there are more of them than fit.
"""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache

from rich.color import ColorSystem
from rich.style import Style

from llmrun.cli.chat.screen.rows import PLAIN, Row, row_cells
from llmrun.cli.output import inert

__all__ = ["Paint", "Pane"]

_FALLBACK = (80, 24)


class Paint:
    """Turns styles into what a terminal understands, as far as it has colours and the user wants them.

    Args:
        colors: The terminal's; None: no colours, but bold, dim and the like.
        is_bare: Nothing at all.
    """

    def __init__(self, colors: ColorSystem | None, *, is_bare: bool = False) -> None:
        self._colors, self._is_bare = colors, is_bare
        self._codes = lru_cache(256)(self._find_codes)

    def _find_codes(self, style: Style) -> tuple[str, str]:
        if self._is_bare or style == PLAIN:
            return "", ""
        wanted = style if self._colors is not None else style.without_color
        before, _, after = wanted.render("\0", color_system=self._colors or ColorSystem.STANDARD).partition("\0")
        return before, after

    def text(self, text: str, style: Style) -> str:
        """Return a text with its style; nothing of the text itself drives the terminal."""
        before, after = self._codes(style)
        shown = inert(text).replace("\n", " ").replace("\t", " ")
        return f"{before}{shown}{after}" if shown else ""

    def row(self, row: Sequence[tuple[str, Style]]) -> str:
        """Return a whole row."""
        return "".join(self.text(text, style) for text, style in row)


class Pane:
    """Writes rows.

    Args:
        paint: How styles look.
        write: Where the text goes, at once.
        size: Returns the columns and rows of the terminal.
    """

    def __init__(
        self, paint: Paint, write: Callable[[str], None], size: Callable[[], tuple[int, int]] | None = None
    ) -> None:
        self._paint, self._write, self._find_size = paint, write, size or terminal_size
        self._rows: tuple[Row, ...] = ()
        self._is_open = False
        self.columns, self.height = self._find_size()

    @property
    def room(self) -> int:
        """How many rows can be changed at most: one less than the screen has."""
        return max(self.height - 1, 1)

    @property
    def rows(self) -> tuple[Row, ...]:
        """What may still change."""
        return self._rows

    def was_resized(self) -> bool:
        """Look at the size again, and return whether it is another one since the last time."""
        before = (self.columns, self.height)
        self.columns, self.height = self._find_size()
        return before != (self.columns, self.height)

    def show(self, rows: Sequence[Row]) -> None:
        """Have the rows that may change be these; the first ones are written in a row of their own."""
        new = tuple(rows)
        old = self._rows
        if not new or new == old:
            return
        self._rows = new
        if not old:
            self._send(("\n" if self._is_open else "") + "\n".join(map(self._paint.row, new)))
            return
        same = next(
            (n for n, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new))
        )
        if same >= len(old):
            self._send("\n" + "\n".join(map(self._paint.row, new[same:])))
        elif same == len(old) - 1 and same < len(new) and (rest := _behind(old[same], new[same])) is not None:
            self._send("\n".join(map(self._paint.row, (rest, *new[same + 1 :]))))
        else:
            self._rewrite(old, new, same)

    def _rewrite(self, old: tuple[Row, ...], new: tuple[Row, ...], first: int) -> None:
        first = min(first, len(new) - 1)
        up = len(old) - 1 - first
        start = (f"\x1b[{up}A" if up else "") + "\r\x1b[J"
        self._send(start + "\n".join(map(self._paint.row, new[first:])))

    def append(self, row: Row) -> None:
        """Write behind the last row, however long that becomes; it is settled."""
        self._rows = ()
        self._send(self._paint.row(row))

    def settle(self, keep: int = 0) -> None:
        """Let all rows stay as they are, but the last `keep` ones."""
        self._rows = self._rows[len(self._rows) - keep :] if keep else ()

    def end(self) -> None:
        """Settle everything, and have the cursor at the beginning of a row."""
        self._rows = ()
        if self._is_open:
            self._is_open = False
            self._write("\n")

    def last_row_fits(self) -> bool:
        """Whether the last row still is one row, after the size changed."""
        return bool(self._rows) and row_cells(self._rows[-1]) <= self.columns

    def _send(self, text: str) -> None:
        self._is_open = True
        self._write(text)


def _behind(old: Row, new: Row) -> Row | None:
    """Return what `new` has behind `old`; None if it does not begin with it."""
    if not old:
        return new
    if len(new) < len(old) or new[: len(old) - 1] != old[:-1]:
        return None
    (before, style), (after, new_style) = old[-1], new[len(old) - 1]
    if style != new_style or not after.startswith(before):
        return None
    return ((after[len(before) :], style), *new[len(old) :])


def terminal_size() -> tuple[int, int]:
    """Return the columns and rows of the terminal behind standard output."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return _FALLBACK
    return (size.columns or _FALLBACK[0], size.lines or _FALLBACK[1])
