"""The parts that a Markdown text is made of, from top to bottom: paragraphs, headings, code, tables, rules.

What they are in (lists, quotes) is what stands in front of their rows. When text is added at the end of a source, only
the last part can change, and parts follow it: all others are as they will be. (Definitions of links, which would change
links above them, are not read; and that a list has blank lines between some of its items changes no other item.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from markdown_it.token import Token
from rich.style import Style

from llmrun.cli.chat.screen.inline import MARKDOWN
from llmrun.cli.chat.screen.rows import PLAIN, Row, Run, cells_of

__all__ = ["Leaf", "LeafKind", "find_leaves"]

LeafKind = Literal["text", "heading", "code", "table", "rule", "empty"]
Align = Literal["left", "center", "right"]

_MARKER = Style(color="cyan")
_QUOTE = Style(dim=True)
_BULLETS = "•◦▪"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One part.

    Attributes:
        kind: What it is; `empty` is an item of a list with nothing in it.
        line: Its first line in the source.
        gap: The row between it and what is above; None: there is none.
        lead: What stands in front of its first row.
        indent: What stands in front of all others.
        content: Its source, without what it is in; of code, the code.
        level: Of a heading, 1 to 6.
        language: Of code.
        is_fenced: Of code, whether it stands between fences.
        is_closed: Of code, whether the fence at its end is there.
        block: Which block of the top level it belongs to, and at which line that begins.
        cells: Of a table: the sources of the cells, row by row; the first row is the header.
        aligns: Of a table: how each column is aligned.
    """

    kind: LeafKind
    line: int
    gap: Row | None
    lead: Row
    indent: Row
    content: str = ""
    level: int = 0
    language: str = ""
    is_fenced: bool = False
    is_closed: bool = True
    block: tuple[int, int] = (0, 0)
    cells: tuple[tuple[str, ...], ...] = ()
    aligns: tuple[Align, ...] = ()

    def with_content(self, content: str) -> "Leaf":
        """Return the part with another source."""
        return replace(self, content=content)


def find_leaves(source: str) -> list[Leaf]:
    """Return the parts of a source."""
    tokens: list[Token] = []
    MARKDOWN.block.parse(source, MARKDOWN, {}, tokens)
    return list(_Walk(source.split("\n")).leaves(tokens))


@dataclass
class _Container:
    """A list's item, or a quote."""

    indent: Run
    line: int
    lead: Run | None = None
    is_quote: bool = False
    has_leaf: bool = False

    def take_lead(self) -> Run:
        lead, self.lead, self.has_leaf = self.lead or self.indent, None, True
        return lead


@dataclass
class _Walk:
    lines: Sequence[str]
    containers: list[_Container] = field(default_factory=list)
    numbers: list[int | None] = field(default_factory=list)
    block: tuple[int, int] = (-1, 0)
    is_first_of_block: bool = True

    def leaves(self, tokens: Sequence[Token]) -> Iterator[Leaf]:
        place = 0
        while place < len(tokens):
            token = tokens[place]
            if token.level == 0 and token.nesting >= 0:
                self.block = (self.block[0] + 1, (token.map or [0])[0])
                self.is_first_of_block = True
            if token.type == "table_open":
                end = next(number for number in range(place, len(tokens)) if tokens[number].type == "table_close")
                yield self._table(token, tokens[place:end])
                place = end
            elif leaf := self._container(token) or self._simple_leaf(token, tokens[place - 1] if place else None):
                yield leaf
            place += 1

    def _container(self, token: Token) -> Leaf | None:
        """Go into a list or a quote, or out of it; an item with nothing in it is a part."""
        match token.type:
            case "bullet_list_open":
                self.numbers.append(None)
            case "ordered_list_open":
                start = token.attrGet("start")
                self.numbers.append(1 if start is None else int(start))
            case "bullet_list_close" | "ordered_list_close":
                self.numbers.pop()
            case "list_item_open":
                self._open_item(self._line(token))
            case "blockquote_open":
                bar = ("▌ ", _QUOTE)
                self.containers.append(_Container(bar, self._line(token), bar, is_quote=True))
            case "list_item_close" | "blockquote_close":
                is_empty = not self.containers[-1].has_leaf
                leaf = self._leaf("empty", [self.containers[-1].line]) if is_empty else None
                self.containers.pop()
                return leaf
        return None

    def _line(self, token: Token) -> int:
        return token.map[0] if token.map else self.block[1]

    def _open_item(self, line: int) -> None:
        number = self.numbers[-1]
        if number is None:
            depth = sum(1 for each in self.numbers if each is None)
            marker = _BULLETS[min(depth, len(_BULLETS)) - 1] + " "
        else:
            marker = f"{number}. "
            self.numbers[-1] = number + 1
        self.containers.append(_Container((" " * cells_of(marker), PLAIN), line, (marker, _MARKER)))

    def _simple_leaf(self, token: Token, before: Token | None) -> Leaf | None:
        place = token.map or [self.block[1], 0]
        match token.type:
            case "inline" if before is not None and before.type == "heading_open":
                return replace(self._leaf("heading", place), content=token.content, level=int(before.tag[1:]))
            case "inline":
                return replace(self._leaf("text", place), content=token.content)
            case "fence":
                return replace(
                    self._leaf("code", place),
                    content=token.content,
                    language=token.info.strip().split(" ")[0].strip("{}."),
                    is_fenced=True,
                    is_closed=place[1] - place[0] >= len(token.content.splitlines()) + 2,
                )
            case "code_block":
                return replace(self._leaf("code", place), content=token.content.rstrip("\n"), is_closed=False)
            case "hr":
                return self._leaf("rule", place)
            case _:
                return None

    def _table(self, opening: Token, tokens: Sequence[Token]) -> Leaf:
        rows: list[list[str]] = []
        aligns: list[Align] = []
        for token in tokens:
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "th_open":
                style = str(token.attrGet("style") or "")
                aligns.append("right" if "right" in style else "center" if "center" in style else "left")
            elif token.type == "inline":
                rows[-1].append(token.content)
        leaf = self._leaf("table", opening.map or [0, 0])
        return replace(leaf, cells=tuple(map(tuple, rows)), aligns=tuple(aligns))

    def _leaf(self, kind: LeafKind, place: Sequence[int]) -> Leaf:
        is_spaced = self.is_first_of_block or self._is_blank(place[0] - 1) or kind in ("heading", "table")
        self.is_first_of_block = False
        quotes = tuple(container.indent for container in self.containers if container.is_quote and container.has_leaf)
        return Leaf(
            kind=kind,
            line=place[0],
            gap=quotes if is_spaced else None,
            lead=tuple(container.take_lead() for container in self.containers),
            indent=tuple(container.indent for container in self.containers),
            block=self.block,
        )

    def _is_blank(self, line: int) -> bool:
        return 0 <= line < len(self.lines) and not self.lines[line].strip(" \t>")
