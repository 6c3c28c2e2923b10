"""What was typed in earlier chats: one file in llmrun's own folder, which nobody else can read."""

import contextlib
import os

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from llmrun.errors import StorageError
from llmrun.folders import data_folder

__all__ = ["open_history"]

_FILE = "chat-history"


class _PrivateHistory(FileHistory):
    """Goes on without the file when that cannot be written: a prompt must not fail for it."""

    def store_string(self, string: str) -> None:
        """Append what was typed."""
        with contextlib.suppress(OSError):
            super().store_string(string)


def open_history() -> History:
    """Return the history; one that ends with this chat where there can be no file."""
    try:
        path = data_folder() / _FILE
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        path.chmod(0o600)
    except (OSError, StorageError):
        return InMemoryHistory()
    return _PrivateHistory(str(path))
