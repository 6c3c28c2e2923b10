"""Read small kernel files (/proc, /sys) without ever raising: a value that is not there is None.

Every probe takes the root folder as an argument, so that a test can give it a made-up /proc and /sys.
It refuses nothing and reports nothing: whoever needs the value says what its absence means.
"""

from pathlib import Path

__all__ = ["read_int", "read_text"]

_LARGEST_BYTES = 4 << 20  # /proc/cpuinfo of a 512-thread machine has 1 MB


def read_text(path: Path) -> str | None:
    """Return the text of a kernel file, or None if it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST_BYTES)
    except (OSError, ValueError):
        return None


def read_int(path: Path) -> int | None:
    """Return the whole number that a kernel file holds, or None."""
    text = read_text(path)
    try:
        return int(text.strip()) if text is not None else None
    except ValueError:
        return None
