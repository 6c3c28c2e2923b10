"""What is said between the answers: the line below each, and notices."""

import re

from rich.style import Style

from llmrun.cli.chat.screen.rows import PLAIN, Row, cells_of, wrap
from llmrun.cli.chat.turns import AnswerStatus
from llmrun.cli.output import inert

__all__ = ["notice_rows", "status_rows"]

_STYLE = Style(dim=True)
_TITLE = Style(bold=True)
_ERROR = Style(color="red", bold=True)
_COLUMN = re.compile(r" *\S.*?  +(?=\S)| +")
_BETWEEN = " · "


def status_rows(status: AnswerStatus, columns: int) -> list[Row]:
    """Return what an answer took in one row, with shorter words if need be; in several where that is not enough."""
    for parts in (_parts(status, "tokens", "tokens/s", "TTFT "), _parts(status, "tok", "tok/s", "")):
        line = _BETWEEN.join(parts)
        if cells_of(line) <= columns:
            return [((line, _STYLE),)]
    lines: list[str] = []
    for part in parts:
        if lines and cells_of(lines[-1] + _BETWEEN + part) <= columns:
            lines[-1] += _BETWEEN + part
        else:
            lines.append(part)
    return [((line, _STYLE),) for line in lines]


def _parts(status: AnswerStatus, tokens: str, rate: str, first: str) -> list[str]:
    count = status.completion_tokens
    parts = [f"{count:,} {tokens.removesuffix('s') if count == 1 else tokens}"]
    if status.decode_tokens_per_second:
        parts.append(f"{status.decode_tokens_per_second:,.1f} {rate}")
    if status.first_seconds:
        parts.append(f"{first}{_seconds(status.first_seconds)}")
    return [*parts, f"{status.context_used:,} / {status.context_length:,}", status.engine]


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def notice_rows(text: str, columns: int) -> list[Row]:
    """Return a notice in rows: one line dimly, an error in red, several lines below their title.

    A line of two columns goes on below the second one.
    """
    title, *lines = inert(text).expandtabs(4).split("\n")
    style = _ERROR if title.startswith("error:") else _TITLE if lines else _STYLE
    rows = wrap(((title, style),), columns)
    for line in lines:
        column = _COLUMN.match(line)
        indent = " " * min(cells_of(column[0]) if column else 0, columns // 2)
        rows += wrap(((line, PLAIN),), columns, (), ((indent, PLAIN),) if indent else ())
    return rows
