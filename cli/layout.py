"""Plain text for 80 columns, that a terminal and a pipe show alike: wrapped lines, aligned pairs, sizes."""

import textwrap
from collections.abc import Iterable

__all__ = ["gib", "pairs", "wrap"]

WIDTH = 80
_NAME_WIDTH = 14
_GIB = 1 << 30


def wrap(text: str, indent: str = "  ") -> str:
    """Return text in lines of at most 80 columns; words are never cut, and later lines are indented."""
    lead = text[: len(text) - len(text.lstrip())]
    lines = textwrap.wrap(
        text.strip(),
        WIDTH,
        initial_indent=lead,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines or [""]) + "\n"


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values in two columns; a row without a name is an empty line."""
    return "".join(
        wrap(f"{name:<{_NAME_WIDTH}} {value}".rstrip(), " " * (_NAME_WIDTH + 1)) if name else "\n"
        for name, value in rows
    )


def gib(size_bytes: float) -> str:
    """Return a size as `4.1 GiB`."""
    return f"{size_bytes / _GIB:,.1f} GiB"
