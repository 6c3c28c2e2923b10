"""Write docs/help.md: the --help page of every command, as the program prints it.

Usage: python tests/tools/help_pages.py [--check]
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("llmrun")
TARGET = Path(__file__).parents[2] / "docs" / "help.md"
HEAD = "# Help pages\n\nWritten by `make docs` from the program itself; `make check` sees that they are up to date.\n"


def pages() -> Iterator[tuple[str, ...]]:
    """Return the words of every command, as the program itself has them."""
    from typer.main import get_command

    from llmrun.cli.app import build_app

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, (*words, name))

    return below(get_command(build_app()), ())


def render() -> str:
    """Return the page."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMRUN_")}
    environment |= {"COLUMNS": "80", "NO_COLOR": "1"}
    parts = [HEAD]
    for page in pages():
        done = subprocess.run(
            [PROGRAM, *page, "--help"], capture_output=True, text=True, env=environment, timeout=60, check=True
        )
        text = "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
        parts.append(f"## `{' '.join(('llmrun', *page))}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    text = render()
    if "--check" not in sys.argv:
        TARGET.write_text(text)
        return 0
    if TARGET.read_text() == text:
        return 0
    print("docs/help.md is not what the program prints: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
