"""Turn what a terminal shows into a picture for the documents.

Usage: tmux capture-pane -e -p | python tests/tools/terminal_picture.py docs/images/NAME.svg [TITLE]
"""

import io
import re
import sys
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.console import Console

# The picture is to look the same without the network: fonts are those of whoever looks.
_FONTS_FROM_ELSEWHERE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def draw(captured: str, title: str) -> str:
    """Return the SVG of a captured screen."""
    lines = list(AnsiDecoder().decode(captured.rstrip("\n")))  # a style goes on in the next line
    width = max(cell_len(line.plain) for line in lines)
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="256")
    for line in lines:
        console.print(line, no_wrap=True, crop=False, highlight=False)
    svg = console.export_svg(title=title, unique_id="screen")
    return _FONTS_FROM_ELSEWHERE.sub("", svg)


def main() -> None:
    """Read the screen from standard input."""
    target, title = Path(sys.argv[1]), (sys.argv[2:] or ["llmrun chat"])[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(draw(sys.stdin.read(), title) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
