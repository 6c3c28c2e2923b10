"""Text with styles, broken into the rows of a terminal.

A row never takes more cells than it was given, on any terminal: terminals do not agree on how wide some emoji are (a
family joined of three is two cells wide for one, six for another), so that each counts as much as it takes at most.
What is written can then be found again by counting rows. Rows have no blanks at their ends: nothing is left over when
a window becomes narrower, and what is copied is the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from unicodedata import category

from rich.cells import get_character_cell_size
from rich.style import Style

__all__ = ["PLAIN", "Row", "Run", "behind_characters", "cells_of", "joined", "last_break", "row_cells", "wrap"]

Run = tuple[str, Style]
Row = tuple[Run, ...]
PLAIN = Style.null()

_WIDE = (
    "\u1100-\u115f\u2e80-\u33ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff"
    "\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003fffd"
)
_UNITS = re.compile(f"\n| +|[{_WIDE}]|[^\n {_WIDE}]+")
_IS_WIDE = re.compile(f"[{_WIDE}]")
# Which characters begin no line, and which end none, by their category: JIS X 4051 (kinsoku), without its fine points.
_NEVER_FIRST_CATEGORIES = frozenset(("Pe", "Pf", "Po", "Pd", "Lm", "Mn", "Me", "Cf"))
_NEVER_LAST_CATEGORIES = frozenset(("Ps", "Pi"))
_WITHOUT_CELLS = frozenset(("Mn", "Me", "Cf", "Cc", "Lo"))
_SMALL_KANA = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ")
_JOINS = frozenset("\u200d\ufe0e\ufe0f")


@lru_cache(4096)
def _cells_at_most(text: str) -> int:
    return sum(map(_character_cells, text))


def _character_cells(character: str) -> int:
    if character == "\ufe0f":  # makes an emoji of the character before it
        return 1
    if "\U0001f1e6" <= character <= "\U0001f1ff":  # half a flag
        return 2
    return get_character_cell_size(character) or int(category(character) not in _WITHOUT_CELLS or character == "\xad")


def cells_of(text: str) -> int:
    """Return how many cells a text takes at most."""
    return len(text) if text.isascii() else _cells_at_most(text)


def row_cells(row: Iterable[Run]) -> int:
    """Return how many cells a row takes at most."""
    return sum(cells_of(text) for text, _ in row)


def joined(runs: Iterable[Run]) -> Row:
    """Return runs with neighbours of the same style as one."""
    out: list[Run] = []
    for text, style in runs:
        if out and out[-1][1] == style:
            out[-1] = (out[-1][0] + text, style)
        elif text:
            out.append((text, style))
    return tuple(out)


def behind_characters(row: Iterable[Run], count: int) -> Row:
    """Return what a row has behind its first characters."""
    out: list[Run] = []
    for text, style in row:
        if rest := text[count:]:
            out.append((rest, style))
        count = max(count - len(text), 0)
    return tuple(out)


def wrap(runs: Iterable[Run], width: int, lead: Sequence[Run] = (), indent: Sequence[Run] = ()) -> list[Row]:
    """Break text into rows, between words and between wide characters.

    Args:
        runs: The text; newlines in it end a row.
        width: Cells in a row.
        lead: What stands in the first row already.
        indent: What stands in front of all others.
    """
    wrapper = _Wrapper(max(width, 2), lead, indent)
    for unit in _units(runs):
        wrapper.add(unit)
    return wrapper.finish()


class _Wrapper:
    """Fills rows; blanks wait until a word follows them in the same row."""

    def __init__(self, width: int, lead: Sequence[Run], indent: Sequence[Run]) -> None:
        self._width, self._indent = width, list(indent)
        self._indent_cells = row_cells(indent)
        if self._indent_cells > width - 8:  # deep in a list in a narrow window
            self._indent, self._indent_cells = [], 0
        self._rows: list[Row] = []
        self._row, self._cells = list(lead), row_cells(lead)
        self._is_empty = not lead
        self._keeps_blanks = True
        self._blanks: list[Run] = []

    def add(self, unit: list[Run]) -> None:
        first = unit[0][0]
        if first == "\n":
            self._end_row()
            self._keeps_blanks = True
        elif first[0] == " ":
            if self._keeps_blanks or not self._is_empty:
                self._blanks += unit
        else:
            self._add_word(unit)

    def finish(self) -> list[Row]:
        return [*self._rows, joined(self._row)]

    def _end_row(self) -> None:
        self._rows.append(joined(self._row))
        self._row, self._cells = list(self._indent), self._indent_cells
        self._is_empty, self._keeps_blanks = True, False
        self._blanks = []

    def _add_word(self, unit: list[Run]) -> None:
        blanks, cells = row_cells(self._blanks), row_cells(unit)
        if self._cells + blanks + cells > self._width and self._cells > self._indent_cells:
            self._end_row()
            blanks = 0
        self._row += self._blanks
        self._cells += blanks
        self._blanks = []
        self._is_empty = False
        if self._cells + cells <= self._width:
            self._row += unit
            self._cells += cells
            return
        for text, style in unit:
            for part in _parts(text):
                size = cells_of(part)
                if self._cells + size > self._width and self._cells > self._indent_cells:
                    self._end_row()
                    self._is_empty = False
                self._row.append((part, style))
                self._cells += size


def _units(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Yield what is not to be torn apart: words, wide characters, blanks, single newlines."""
    word: list[Run] = []
    for text, style in runs:
        for unit in _UNITS.findall(text):
            if unit[0] in " \n":
                if word:
                    yield word
                    word = []
                yield [(unit, style)]
            else:
                if word and _may_break(word[-1][0][-1], unit[0]):
                    yield word
                    word = []
                word.append((unit, style))
    if word:
        yield word


def _may_break(before: str, after: str) -> bool:
    if not (_IS_WIDE.match(before) or _IS_WIDE.match(after)) or after in _SMALL_KANA:
        return False
    return category(after) not in _NEVER_FIRST_CATEGORIES and category(before) not in _NEVER_LAST_CATEGORIES


def last_break(text: str) -> int:
    """Return the last place in a text where a row may end; 0 if there is none."""
    for place in range(len(text) - 1, 0, -1):
        if text[place] in " \n" or (text[place - 1] not in " \n" and _may_break(text[place - 1], text[place])):
            return place
    return 0


def _parts(text: str) -> Iterator[str]:
    """Yield characters, each with what joins it or stands on it."""
    part = ""
    for character in text:
        stays = part and (get_character_cell_size(character) == 0 or character in _JOINS or part[-1] == "\u200d")
        if part and not stays:
            yield part
            part = ""
        part += character
    if part:
        yield part
