"""How each part of a Markdown text gets onto the pane while it grows.

A paragraph can change in its last rows only, so that the others are settled soon; code goes out line by line; a table
is drawn anew with every row, until it no longer fits on the screen: from then on its columns stay as wide as they are.
After the window has another size, nothing above the last row is touched.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from rich.style import Style

from llmrun.cli.chat.screen.code import Highlighter
from llmrun.cli.chat.screen.inline import Inline, inline_runs, with_marks
from llmrun.cli.chat.screen.leaves import Leaf
from llmrun.cli.chat.screen.pane import Pane
from llmrun.cli.chat.screen.rows import PLAIN, Row, Run, behind_characters, joined, last_break, row_cells, wrap
from llmrun.cli.chat.screen.table import TableShape, choose_shape, render_header, render_row, widen_shape

__all__ = ["CodeDrawer", "Drawer", "TableDrawer", "TextDrawer", "make_drawer"]

_HEADINGS = (Style(bold=True, underline=True), Style(bold=True), Style(bold=True, italic=True))
_DIM = Style(dim=True)
_RULE_CELLS = 24
_SETTLED_FROM = 4
_TAB_CELLS = 4
_JUMP_CELLS = 12
_LONG_LINE = 400
_LAST_NAME = re.compile(r"\w+\Z")
_LAST_WORD = re.compile(r"(?<= )[!-~\u00a0-\u1fff]{1,24}\Z")


class Reader(Protocol):
    """Makes text with styles of a paragraph's source."""

    def __call__(self, source: str, base: Style = PLAIN, *, is_complete: bool) -> Inline:
        """Return it; the source may go on."""
        ...


class Drawer(Protocol):
    """Draws one part."""

    def update(self, leaf: Leaf, *, is_complete: bool) -> None:
        """Show the part as it is now."""
        ...

    def break_off(self, *, in_row: bool) -> None:
        """Leave what is there as it is, and go on behind it, or in a row of its own.

        Args:
            in_row: The last row is where it was, and can be gone on with.
        """
        ...


def make_drawer(leaf: Leaf, pane: Pane, *, is_first: bool) -> Drawer:
    """Return what draws a part; the first one of an answer has no gap above it."""
    match leaf.kind:
        case "code":
            return CodeDrawer(leaf, pane, is_first=is_first)
        case "table":
            return TableDrawer(pane, is_first=is_first)
        case "rule" | "empty":
            return _LineDrawer(pane, is_first=is_first)
        case _:
            return TextDrawer(pane, is_first=is_first)


def _gap(leaf: Leaf, *, is_first: bool) -> tuple[Row, ...]:
    return () if is_first or leaf.gap is None else (leaf.gap,)


class TextDrawer:
    """Draws a paragraph or a heading.

    Args:
        pane: Where it goes.
        is_first: It never has a gap above it.
        read: Makes text with styles of its source.
    """

    def __init__(self, pane: Pane, *, is_first: bool = False, read: Reader = inline_runs) -> None:
        self._pane, self._is_first, self._read = pane, is_first, read
        self._begun = 0
        self._opened = ""
        self._lead: Row | None = None
        self._shown: Inline | None = None

    def update(self, leaf: Leaf, *, is_complete: bool) -> None:
        """Show the paragraph as it is now."""
        source = leaf.content[self._begun :]
        if self._begun and not source.strip():
            return
        base = _HEADINGS[min(leaf.level, len(_HEADINGS)) - 1] if leaf.kind == "heading" else PLAIN
        gap = _gap(leaf, is_first=self._is_first)
        self._shown = self._parse(source, base, is_complete=is_complete)
        rows = self._wrap(leaf, self._shown, gap)
        if (
            not is_complete
            and (cut := _jumping_word(source))
            and row_cells(rows[-1]) > self._pane.columns - _JUMP_CELLS
        ):
            source = source[:cut]
            self._shown = self._parse(source, base, is_complete=False)
            rows = self._wrap(leaf, self._shown, gap)
        self._pane.show(rows)
        if is_complete or len(rows) < _SETTLED_FROM:
            return
        is_long = len(rows) > min(self._pane.room, 2 * _SETTLED_FROM)
        if is_long or not self._shown.opened:
            self._settle_words(leaf, source, base, rows)
        if len(self._pane.rows) >= self._pane.room:
            self._settle_all(self._pane.rows[-1])

    def break_off(self, *, in_row: bool) -> None:
        """Settle what is shown."""
        if self._pane.rows:
            self._settle_all(self._pane.rows[-1] if in_row else None)

    def _wrap(self, leaf: Leaf, inline: Inline, gap: tuple[Row, ...]) -> list[Row]:
        return [*gap, *wrap(inline.runs, self._pane.columns, self._first(leaf), leaf.indent)]

    def _first(self, leaf: Leaf) -> Row:
        if self._lead is not None:
            return self._lead
        return leaf.indent if self._begun else leaf.lead

    def _parse(self, source: str, base: Style, *, is_complete: bool) -> Inline:
        text = source.lstrip() if self._begun else source
        marked = with_marks(self._opened, text)
        inline = self._read(marked, base, is_complete=is_complete)
        blank: tuple[Run, ...] = ((" ", base),) if len(text) < len(source) and self._lead is not None else ()
        length = len(source) - (len(marked) - inline.source_length)
        return Inline((*blank, *inline.runs), inline.opened, max(length, 0))

    def _settle_words(self, leaf: Leaf, source: str, base: Style, rows: Sequence[Row]) -> None:
        """Settle all rows but the last one, if the rest reads the same by itself, with the marks that are open."""
        cut = last_break(source.rstrip())
        if not cut:
            return
        above = self._parse(source[:cut], base, is_complete=False)
        settled = self._wrap(leaf, above, _gap(leaf, is_first=self._is_first))
        before = (self._begun, self._opened, self._lead)
        self._begun, self._opened, self._lead = self._begun + cut, above.opened, settled[-1]
        rest = self._parse(source[cut:], base, is_complete=False)
        again = wrap(rest.runs, self._pane.columns, settled[-1], leaf.indent)
        if above.source_length == cut and [*settled[:-1], *again] == list(rows):
            self._is_first, self._shown = True, rest
            self._pane.settle(keep=len(rows) - len(settled) + 1)
        else:
            self._begun, self._opened, self._lead = before

    def _settle_all(self, lead: Row | None) -> None:
        """Settle what is shown; what follows goes on with the marks that are open."""
        if self._shown is not None:
            self._begun += self._shown.source_length
            self._opened, self._shown = self._shown.opened, None
        self._lead, self._is_first = lead, True
        self._pane.settle(keep=0 if lead is None else 1)


def _jumping_word(source: str) -> int:
    """Return where the last word begins: while it grows, it may become too long for its row, and is shown later."""
    word = _LAST_WORD.search(source)
    return word.start() if word else 0


class CodeDrawer:
    """Draws code: its language above, the lines as they are, so that they can be copied, a rule below."""

    def __init__(self, leaf: Leaf, pane: Pane, *, is_first: bool) -> None:
        self._pane = pane
        self._highlighter = Highlighter(leaf.language)
        self._taken = 0
        self._partial = ""
        self._is_loose = False
        label = f"── {leaf.language} " if leaf.language else ""
        self._heading = [*_gap(leaf, is_first=is_first), (*leaf.lead, (label.ljust(_rule_cells(pane), "─"), _DIM))]
        self._is_begun = self._is_ended = False

    @property
    def is_open(self) -> bool:
        """Whether the fence at its end is still to come."""
        return not self._is_ended

    def update(self, leaf: Leaf, *, is_complete: bool) -> None:
        """Show the lines that have come since, and the beginning of the next."""
        if not self._is_begun:
            self._is_begun = True
            self._show_settled(*self._heading)
        if self._is_ended:
            return
        lines = leaf.content.expandtabs(_TAB_CELLS).split("\n")
        complete, partial = lines[:-1], lines[-1]
        if is_complete and partial:
            complete, partial = [*complete, partial], ""
        for line in complete[self._taken :]:
            self._end_line(leaf, line)
        self._taken = max(self._taken, len(complete))
        if partial:
            self._show_beginning(leaf, partial)
        if is_complete or leaf.is_closed:
            self._is_ended = True
            self._show_settled((*leaf.indent, ("─" * _rule_cells(self._pane), _DIM)))

    def take_finished(self) -> int:
        """Return how many lines are done since the last time; the source no longer needs them."""
        taken, self._taken = self._taken, 0
        return taken

    def break_off(self, *, in_row: bool) -> None:
        """Leave what is there of the line as it is, and add to it."""
        del in_row
        if self._partial:
            self._pane.settle()
            self._is_loose = True

    def _show_settled(self, *rows: Row) -> None:
        self._pane.settle()
        self._pane.show(rows)
        self._pane.settle()

    def _show_beginning(self, leaf: Leaf, line: str) -> None:
        """Add to what is shown of the line; its last word waits until it is complete, so that its colour is right."""
        shown = _LAST_NAME.sub("", line) if len(line) < _LONG_LINE else line
        if len(shown) <= len(self._partial):
            return
        row = self._highlighter.beginning(shown)
        if self._is_loose or row_cells(row) + row_cells(leaf.indent) > self._pane.columns:
            self._show_loose((*leaf.indent, *row), shown)
        elif not self._partial:
            self._pane.show([(*leaf.indent, *row)])
        else:
            added = behind_characters(row, len(self._partial))
            self._pane.show([joined((*self._pane.rows[-1], *added))])
        self._partial = shown

    def _end_line(self, leaf: Leaf, line: str) -> None:
        """Show the whole line; unless the terminal broke it, all of it in its colours."""
        row = joined((*leaf.indent, *self._highlighter.line(line)))
        if self._is_loose or row_cells(row) > self._pane.columns:
            self._show_loose(row, line)
        else:
            self._pane.show([row])
        self._partial, self._is_loose = "", False
        self._pane.settle()

    def _show_loose(self, row: Row, line: str) -> None:
        """Show a line that the terminal breaks: it is only ever added to."""
        self._is_loose = True
        if self._partial:
            self._pane.append(((line[len(self._partial) :], row[-1][1] if row else PLAIN),))
        else:
            self._pane.show([()])
            self._pane.append(row)


class TableDrawer:
    """Draws a table."""

    def __init__(self, pane: Pane, *, is_first: bool) -> None:
        self._pane, self._is_first = pane, is_first
        self._shape: TableShape | None = None
        self._settled = self._shown = 1
        self._is_broken = False

    def update(self, leaf: Leaf, *, is_complete: bool) -> None:
        """Show the rows that have come."""
        first, self._shown = self._shown, len(leaf.cells)
        if self._shape is not None:
            for number in range(first, len(leaf.cells)):
                self._pane.show(render_row(leaf, number, self._shape, self._pane.columns))
                self._pane.settle()
            return
        if self._settled > 1 and self._settled == len(leaf.cells):
            return
        shape = choose_shape(leaf, self._pane.columns)
        rows = self._render(leaf, shape)
        if len(rows) >= self._pane.room and not is_complete:
            self._shape = widen_shape(shape, leaf, self._pane.columns)
            rows = self._render(leaf, self._shape)
        self._pane.show(rows)
        if self._shape is not None:
            self._pane.settle()

    def _render(self, leaf: Leaf, shape: TableShape) -> list[Row]:
        rows: list[Row] = [()] if self._is_broken else [*_gap(leaf, is_first=self._is_first)]
        rows += render_header(leaf, shape)
        for number in range(self._settled, len(leaf.cells)):
            rows += render_row(leaf, number, shape, self._pane.columns)
        return rows

    def break_off(self, *, in_row: bool) -> None:
        """Go on with another table: the header again, and the rows that follow."""
        del in_row
        self._pane.settle()
        self._shape, self._settled, self._is_broken = None, self._shown, True


class _LineDrawer:
    """Draws a rule, or an item with nothing in it, once it is complete."""

    def __init__(self, pane: Pane, *, is_first: bool) -> None:
        self._pane, self._is_first = pane, is_first

    def update(self, leaf: Leaf, *, is_complete: bool) -> None:
        """Show it."""
        gap = _gap(leaf, is_first=self._is_first)
        if leaf.kind == "rule":
            self._pane.show([*gap, (*leaf.lead, ("─" * _rule_cells(self._pane), _DIM))])
        elif is_complete:
            self._pane.show([*gap, leaf.lead])

    def break_off(self, *, in_row: bool) -> None:
        """Leave it as it is."""


def _rule_cells(pane: Pane) -> int:
    return min(pane.columns, _RULE_CELLS)
