"""Markdown on a terminal while it comes: each part is rendered as soon as it is certain, and stays as it is.

The parts of the text are found by the parser for every line; what a growing paragraph needs is parsed for every piece.
What is complete is taken out of the source, so that a piece costs the same however long the answer has become. The
beginning of a line that may still become anything (`-`, `12.`, a fence, the row of a table) waits for more of it.
"""

import re

from llmrun.cli.chat.screen.drawers import CodeDrawer, Drawer, TableDrawer, TextDrawer, make_drawer
from llmrun.cli.chat.screen.leaves import Leaf, LeafKind, find_leaves
from llmrun.cli.chat.screen.pane import Pane
from llmrun.cli.output import inert

__all__ = ["MarkdownStream"]

_IN = r"(?:[ \t>]|[-*+][ \t]+|\d{1,9}[.)][ \t]+)*"
_UNDECIDED = re.compile(_IN + r"(?:[-*+=#>|`~:_ \t]*|\d{1,9}[.)]?[ \t]*|\||\|.*|```.*|~~~.*)\Z")
_UNDECIDED_IN_CODE = re.compile(r"[ \t>]*(?:`{1,2}|~{1,2}|```.*|~~~.*)?\Z")
_TABLE_LINE = re.compile(_IN + r"\|")
_DELIMITER_LINE = re.compile(r"[ \t>|:\-]*\Z")
# A paragraph that turns out to be a heading keeps what is settled of it.
_SAME_DRAWER: dict[LeafKind, set[LeafKind]] = {
    "text": {"text", "heading"},
    "heading": {"text", "heading"},
    "code": {"code"},
    "table": {"table"},
    "rule": {"rule", "empty"},
    "empty": {"rule", "empty"},
}


class MarkdownStream:
    """Renders one answer.

    Args:
        pane: Where it goes.
    """

    def __init__(self, pane: Pane) -> None:
        self._pane = pane
        self._source = ""
        self._drawer: Drawer | None = None
        self._leaf: Leaf | None = None
        self._done = 0
        self._is_first = True
        self._paragraph: str | None = None
        self._parsed_length = 0

    def feed(self, text: str) -> None:
        """Show a piece of the answer."""
        text = inert(text)
        self._source += text
        self.look_at_size()
        if self._paragraph is not None and "\n" not in text:
            self._extend_paragraph(text)
        elif text:
            self._advance(is_complete=False)

    def finish(self) -> None:
        """Show the rest: there is no more."""
        self.look_at_size()
        self._advance(is_complete=True)

    def look_at_size(self) -> None:
        """Take note of it if the window has another size."""
        if self._pane.was_resized() and self._drawer is not None:
            self._drawer.break_off(in_row=self._pane.last_row_fits())

    def break_off(self) -> None:
        """End the row, as something else is shown in the midst of the answer."""
        if self._drawer is not None:
            self._drawer.break_off(in_row=False)
        self._pane.end()

    def _extend_paragraph(self, text: str) -> None:
        self._parsed_length = -1
        assert self._paragraph is not None
        assert isinstance(self._drawer, TextDrawer)
        assert self._leaf is not None
        self._paragraph += text
        self._drawer.update(self._leaf.with_content(self._paragraph), is_complete=False)

    def _advance(self, *, is_complete: bool) -> None:
        visible = self._source if is_complete else self._visible()
        if len(visible) == self._parsed_length and not is_complete:
            return
        before = len(self._source)
        leaves = find_leaves(visible)
        for number in range(self._done, len(leaves)):
            is_last = number == len(leaves) - 1
            if not is_last or is_complete or leaves[number].kind != "empty":
                self._draw(leaves[number], is_complete=is_complete or not is_last)
            if not is_last:
                self._drawer = None
                self._pane.settle()
        self._done = max(len(leaves) - 1, self._done, 0)
        self._paragraph = None
        if leaves and not is_complete:
            self._remember(leaves[-1], is_whole=visible == self._source)
            self._cut(leaves)
        self._parsed_length = len(visible) - (before - len(self._source))

    def _draw(self, leaf: Leaf, *, is_complete: bool) -> None:
        if self._drawer is None or (self._leaf and not {self._leaf.kind, leaf.kind} <= _SAME_DRAWER[leaf.kind]):
            self._drawer = make_drawer(leaf, self._pane, is_first=self._is_first)
        self._leaf = leaf
        self._drawer.update(leaf, is_complete=is_complete)
        if is_complete:
            self._is_first = False

    def _remember(self, leaf: Leaf, *, is_whole: bool) -> None:
        """Note whether more text without a newline can only make the last paragraph longer."""
        if leaf.kind == "text" and is_whole and not self._source.endswith("\n"):
            self._paragraph = leaf.content + self._source[len(self._source.rstrip()) :]

    def _visible(self) -> str:
        """Return the source without the end that is not decided yet."""
        above, newline, last = self._source.rpartition("\n")
        if isinstance(self._drawer, CodeDrawer) and self._drawer.is_open and self._leaf and self._leaf.is_fenced:
            may_end = bool(self._leaf.indent) and _UNDECIDED.match(last)  # of what the code is in
            return above + newline if may_end or _UNDECIDED_IN_CODE.match(last) else self._source
        if isinstance(self._drawer, TableDrawer):
            return above + newline
        if not _UNDECIDED.match(last):
            return self._source
        before, other_newline, line = above.rpartition("\n")
        if _TABLE_LINE.match(line) and not _DELIMITER_LINE.match(line) and _DELIMITER_LINE.match(last):
            return before + other_newline
        return above + newline

    def _cut(self, leaves: list[Leaf]) -> None:
        """Take what is complete out of the source."""
        lines = self._source.split("\n")
        last = leaves[-1]
        if isinstance(self._drawer, CodeDrawer) and last.is_fenced:
            finished = self._drawer.take_finished()
            del lines[last.line + 1 : last.line + 1 + finished]
        first_line = last.block[1]
        if last.block[0]:
            del lines[:first_line]
            self._done = sum(1 for leaf in leaves[:-1] if leaf.block == last.block)
        self._source = "\n".join(lines)
