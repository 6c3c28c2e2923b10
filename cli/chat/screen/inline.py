"""Markdown within a paragraph, as text with styles; also while the paragraph is not complete.

What is opened and not closed yet (`**bold`, a code span) is shown as if it were closed right behind the last word, so
that words do not change their looks when the mark arrives; if it never does, the mark was text, and is shown as such
at the end of the paragraph. What a few more letters could make something else of waits for them: a mark at the very
end, a link that is not complete, an emoji that others may join (terminals join them only if they come together).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_block import fence
from markdown_it.rules_inline import StateInline, link_pairs
from markdown_it.token import Token
from rich.style import Style

from llmrun.cli.chat.screen.rows import PLAIN, Run

__all__ = ["MARKDOWN", "Inline", "inline_runs", "with_marks"]

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")
"""CommonMark with tables; HTML is text, and so is what looks like the definition of a link."""

# Code comes first: its opening fence may look like the header of a table, until the next line is complete.
MARKDOWN.block.ruler.disable("fence")
MARKDOWN.block.ruler.before("table", "fence_first", fence, {"alt": ["paragraph", "reference", "blockquote", "list"]})

_STYLES = {
    "em": Style(italic=True),
    "strong": Style(bold=True),
    "s": Style(strike=True),
    "a": Style(underline=True),
    "img": Style(italic=True),
}
_CODE = Style(color="cyan")
_URL = Style(color="blue")
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_UNDECIDED_END = re.compile(
    r"""(?:
    [*_~]+ | `+ | \\ | [\u200d\ufe0f\u2600-\u27bf\U0001f000-\U0001faff]+ | &\#?\w{0,12}
    | <[A-Za-z][^<>\s]{0,200}
    | !?\[[^\[\]\n]{0,200}(?:\](?:\([^()\s]{0,300})?)?
    )\Z""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Inline:
    """A paragraph's text with styles.

    Attributes:
        runs: The text.
        opened: The marks that are open at its end: in front of what follows, they go on with the same looks.
        source_length: How much of the source is in it.
    """

    runs: tuple[Run, ...]
    opened: str
    source_length: int


def inline_runs(source: str, base: Style = PLAIN, *, is_complete: bool) -> Inline:
    """Return what a paragraph's source shows."""
    if is_complete:
        return Inline(tuple(_runs(_parse(source), base)), "", len(source))
    end = _UNDECIDED_END.search(source)
    shown = source[: end.start()] if end and not _is_escaped(source, end.start()) else source
    ticks = _open_code(shown.rstrip())
    text = shown.rstrip() + ticks if ticks else shown
    state = StateInline(text, MARKDOWN, {}, [])
    MARKDOWN.inline.tokenize(state)
    link_pairs(state)
    if marks := _open_marks(state):
        return Inline(tuple(_runs(_parse(text.rstrip() + marks[::-1]), base)), marks + ticks, len(shown.rstrip()))
    for rule in MARKDOWN.inline.ruler2.getRules("")[1:]:
        rule(state)
    return Inline(tuple(_runs(state.tokens, base)), ticks, len(shown.rstrip()))


def with_marks(opened: str, source: str) -> str:
    """Return a source with the marks in front that are open there; those that it begins by closing are left out."""
    while opened and source.startswith(opened[-1]):
        mark = opened[-1]
        run = len(opened) - len(opened.rstrip(mark))
        closing = len(source) - len(source.lstrip(mark))
        cancelled = min(run, closing)
        opened, source = opened[: len(opened) - cancelled], source[cancelled:]
        if run != closing:
            break
    return opened + source


def _is_escaped(source: str, place: int) -> bool:
    before = source[:place]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _parse(source: str) -> Sequence[Token]:
    return MARKDOWN.parseInline(source)[0].children or ()


def _open_marks(state: StateInline) -> str:
    """Return the marks that are opened and not closed, outermost first; those with no text behind them are none."""
    marks = {delimiter.token for delimiter in state.delimiters}
    last_text = max((n for n, token in enumerate(state.tokens) if n not in marks and token.content.strip()), default=-1)
    pending = [each for each in state.delimiters if each.open and each.end < 0 and each.token < last_text]
    return "".join(chr(each.marker) * (2 if each.marker == ord("~") else 1) for each in pending)


def _open_code(source: str) -> str:
    """Return the backticks of a code span that is not closed; one with nothing in it is none."""
    place = 0
    while (start := source.find("`", place)) >= 0:
        length = len(source) - start - len(source[start:].lstrip("`"))
        if start and source[start - 1] == "\\":
            place = start + 1
            continue
        closing = re.compile(rf"(?<!`){'`' * length}(?!`)").search(source, start + length)
        if closing is None:
            return "`" * length if start + length < len(source) else ""
        place = closing.end()
    return ""


def _runs(tokens: Sequence[Token], base: Style) -> Iterator[Run]:
    styles = [base]
    links: list[list[str]] = []  # the URL, and the text so far
    for token in tokens:
        if token.type == "link_open":
            links.append([str(token.attrGet("href") or ""), ""])
        if token.type == "image":
            yield from _image(token, styles[-1])
        elif token.type == "link_close":
            styles.pop()
            url, text = links.pop()
            yield from _url(url, text, styles[-1])
        elif token.nesting > 0:
            styles.append(styles[-1] + _STYLES.get(token.tag, PLAIN))
        elif token.nesting < 0:
            styles.pop()
        else:
            text = _text(token)
            for link in links:
                link[1] += text
            yield text, styles[-1] + _CODE if token.type == "code_inline" else styles[-1]


def _text(token: Token) -> str:
    match token.type:
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case "code_inline":
            return token.content.replace("\t", " ")
        case _:
            return _LINE_BREAK.sub("\n", token.content.replace("\t", " "))


def _image(token: Token, style: Style) -> Iterator[Run]:
    yield from _runs(token.children or (), style + _STYLES["img"])
    yield f" ({token.attrGet('src')})", style + _URL


def _url(url: str, text: str, style: Style) -> Iterator[Run]:
    if url and text not in (url, url.removeprefix("mailto:")):
        yield f" ({url})", style + _URL
