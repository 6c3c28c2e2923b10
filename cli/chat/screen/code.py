"""The colours of code, line by line as it comes.

A line is coloured once it is complete, together with some of those above it; until then by itself. That costs the same
for each line, however long the code is. Colours are those of the terminal's own palette, for dark and light ones.
"""

from collections.abc import Iterable

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, String, _TokenType, is_token_subtype
from pygments.util import ClassNotFound
from rich.style import Style
from rich.syntax import Syntax

from llmrun.cli.chat.screen.rows import PLAIN, Row, joined

__all__ = ["Highlighter"]

_THEME = Syntax.get_theme("ansi_dark")
_FRESH_START_LINES = 16
_MOST_LINES = 60
_MOST_CHARACTERS = 400


class Highlighter:
    """Colours one piece of code.

    Args:
        language: As the fence names it; one that nobody knows has no colours.
    """

    def __init__(self, language: str) -> None:
        self._lexer = _find_lexer(language)
        self._above: list[str] = []
        self._inside: Style | None = None

    def line(self, text: str) -> Row:
        """Return the next line with its colours."""
        if self._lexer is None or len(text) > _MOST_CHARACTERS:
            self._above.clear()
            return ((text, PLAIN),) if text else ()
        begins_anew = text[:1].strip() != "" and self._inside is None
        if len(self._above) >= (_FRESH_START_LINES if begins_anew else _MOST_LINES):
            self._above.clear()
        self._above.append(text)
        lines, self._inside = _colored(self._lexer, "\n".join(self._above) + "\n")
        return lines[len(self._above) - 1] if len(lines) >= len(self._above) else ((text, PLAIN),)

    def beginning(self, text: str) -> Row:
        """Return the beginning of a line that is not complete."""
        if self._inside is not None or self._lexer is None or len(text) > _MOST_CHARACTERS:
            return ((text, self._inside or PLAIN),) if text else ()
        lines, _ = _colored(self._lexer, text)
        return lines[0] if lines else ()


def _find_lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False) if language else None
    except ClassNotFound:
        return None


def _colored(lexer: Lexer, text: str) -> tuple[list[Row], Style | None]:
    """Return the rows of a text, and the style of the string or comment that its end is in."""
    rows: list[list[tuple[str, Style]]] = [[]]
    inside: Style | None = None
    tokens: Iterable[tuple[_TokenType, str]] = lexer.get_tokens(text)
    for kind, part in tokens:
        style = _THEME.get_style_for_token(kind)
        may_span = is_token_subtype(kind, String) or is_token_subtype(kind, Comment.Multiline)
        spans = may_span and len(part) > 1 and part.endswith("\n")
        inside = style if spans else None
        first, *others = part.split("\n")
        rows[-1].append((first, style))
        rows += [[(other, style)] for other in others]
    return [joined(row) for row in rows], inside
