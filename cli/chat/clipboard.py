"""Puts text on the clipboard: by a program that has one at hand, else by asking the terminal (OSC 52).

A terminal does not say whether it obeyed, so that the user is told which way was taken.
"""

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llmrun.errors import UsageError

__all__ = ["copy_text"]

# The program, and the variable that says that there is a desktop for it.
_PROGRAMS = (
    (("wl-copy",), "WAYLAND_DISPLAY"),
    (("xclip", "-selection", "clipboard"), "DISPLAY"),
    (("xsel", "--clipboard", "--input"), "DISPLAY"),
    (("pbcopy",), None),
    (("clip.exe",), None),
)
_LARGEST_OSC_BYTES = 74_994  # of text; xterm takes 100,000 bytes of the sequence
_SECONDS = 5.0


def copy_text(text: str) -> str:
    """Copy a text, and return how.

    Raises:
        UsageError: There is no way to.
    """
    data = text.encode("utf-8", "replace")
    for command, variable in _PROGRAMS:
        if (variable is None or os.environ.get(variable)) and shutil.which(command[0]) and _run(command, data):
            return f"with {command[0]}"
    if not sys.stderr.isatty() and not sys.stdout.isatty():
        raise UsageError("there is no clipboard: neither a program for one nor a terminal", fix="/export FILE.md")
    if len(data) > _LARGEST_OSC_BYTES:
        raise UsageError(
            f"the terminal takes {_LARGEST_OSC_BYTES:,} bytes for its clipboard, and these are {len(data):,}",
            fix="/export FILE.md",
        )
    try:
        Path("/dev/tty").write_bytes(b"\x1b]52;c;" + base64.b64encode(data) + b"\x07")
    except OSError as error:
        raise UsageError(f"the terminal cannot be written: {error.strerror or error}", fix="/export FILE.md") from error
    return "by way of the terminal, if it allows that (OSC 52)"


def _run(command: tuple[str, ...], data: bytes) -> bool:
    """Hand the text to a program; one that stays to serve it must not keep this one waiting."""
    null = subprocess.DEVNULL
    try:
        return subprocess.run(command, input=data, stdout=null, stderr=null, timeout=_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
