"""Write docs/help.md: the --help page of every command, as the program prints it.

Usage: python tests/tools/help_pages.py [--check]
"""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("llmrun")
TARGET = Path(__file__).parents[2] / "docs" / "help.md"
PAGES = (
    (),
    ("run",),
    ("which-backend",),
    ("models",),
    ("models", "list"),
    ("models", "pull"),
    ("models", "show"),
    ("models", "convert"),
    ("models", "rm"),
    ("models", "cache"),
    ("models", "cache", "show"),
    ("models", "cache", "clear"),
    ("install",),
)
HEAD = "# Help pages\n\nWritten by `make docs` from the program itself; `make check` sees that they are up to date.\n"


def render() -> str:
    """Return the page."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMRUN_")}
    environment |= {"COLUMNS": "100", "NO_COLOR": "1"}
    parts = [HEAD]
    for page in PAGES:
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
