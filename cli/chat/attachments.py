"""Files that go with a turn: in front of its text, as `run --file` puts them."""

import os
import stat
from pathlib import Path

from llmrun.cli.chat.state import Attachment
from llmrun.errors import UsageError

__all__ = ["read_attachment"]

_MAX_BYTES = 16 << 20


def read_attachment(path: Path) -> tuple[Attachment, tuple[str, ...]]:
    """Return a file that is to go with a turn, and what was odd about it.

    Raises:
        UsageError: It cannot be read, is no regular file, is empty or is larger than any context.
    """
    try:
        # Not waiting for somebody to write into a FIFO.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path} is not a regular file")
            if status.st_size > _MAX_BYTES:
                raise UsageError(f"{path} has {status.st_size:,} bytes, and {_MAX_BYTES:,} at most can go with a turn")
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    notices: tuple[str, ...] = ()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        notices = (f"{path} is not UTF-8 (byte {error.start:,}): what cannot be read was replaced by U+FFFD",)
        text = data.decode("utf-8", "replace")
    if not text.strip():
        raise UsageError(f"{path} is empty")
    return Attachment(path=path, text=text.strip("\n")), notices
