"""Has the user change a text in the editor of their choice."""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from llmrun.errors import UsageError

__all__ = ["edit_text"]

_USUAL = ("nano", "vim", "vi")


def edit_text(text: str) -> str:
    """Return what the user made of a text, in $VISUAL, $EDITOR or a usual editor.

    Raises:
        UsageError: There is no editor, or it failed; nothing is changed then.
    """
    command = _editor()
    with tempfile.TemporaryDirectory(prefix="llmrun-") as folder:  # which nobody else can read
        path = Path(folder, "turn.md")
        path.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*command, str(path)]).returncode
        except OSError as error:
            raise UsageError(f"the editor {command[0]} cannot be started: {error.strerror or error}") from error
        if code:
            raise UsageError(f"the editor {command[0]} failed with exit code {code}: nothing was changed")
        return path.read_text(encoding="utf-8", errors="replace")


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(os.environ.get(variable, ""))
        except ValueError as error:
            raise UsageError(f"{variable} is no command: {error}") from error
        if words:
            return words
    found = next((name for name in _USUAL if shutil.which(name)), None)
    if found is None:
        raise UsageError("there is no editor", fix="set EDITOR to the command of one")
    return [found]
