"""The part of a file that has been read so far, growing as the header turns out to be longer.

The header is read into memory instead of being mapped: a mapped file that another program cuts short kills the
process with SIGBUS, a short read is an ordinary error. Where the bytes come from is the caller's affair: a file on
this disk is read ahead generously, because asking costs more than reading; a file on a server is read ahead a little.
"""

import os
from collections.abc import Callable
from pathlib import Path

from llmrun.errors import ModelFileError

__all__ = ["FIRST_READ_BYTES", "MAX_HEADER_BYTES", "HeaderWindow", "RangeReader", "damaged", "descriptor_reader"]

_FIX = "download the file again"
FIRST_READ_BYTES = 1024 * 1024
# The largest vocabulary in use (262,144 tokens, 514,906 merges) makes a header of 16 MiB.
MAX_HEADER_BYTES = 128 * 1024 * 1024


def damaged(path: Path, what: str) -> ModelFileError:
    """Return the error for a header that contradicts itself or the limits."""
    return ModelFileError(f"{path} is damaged: {what}", fix=_FIX)


RangeReader = Callable[[int, int], bytes]
"""Returns up to so many bytes from a place in the file on; fewer only at its end."""


def descriptor_reader(path: Path, descriptor: int) -> RangeReader:
    """Return a reader of an open file; `path` is for messages."""

    def read(start: int, length: int) -> bytes:
        pieces = []
        try:
            os.lseek(descriptor, start, os.SEEK_SET)
            while length > 0:
                piece = os.read(descriptor, length)
                if not piece:
                    break
                pieces.append(piece)
                length -= len(piece)
        except OSError as error:
            raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
        return b"".join(pieces)

    return read


class HeaderWindow:
    """The first `len(data)` bytes of a file.

    Attributes:
        path: For messages.
        data: What has been read; replaced, never changed, when more is read.
        size_bytes: Size of the whole file.
        section: What is being read now, for messages.
    """

    __slots__ = ("_ahead_bytes", "_first_bytes", "_read", "data", "path", "section", "size_bytes")

    def __init__(
        self,
        path: Path,
        size_bytes: int,
        read: RangeReader,
        *,
        first_bytes: int = FIRST_READ_BYTES,
        ahead_bytes: int | None = None,
    ) -> None:
        """Begin with nothing read.

        Args:
            path: For messages.
            size_bytes: Size of the whole file.
            read: Where the bytes come from.
            first_bytes: How much to read at first.
            ahead_bytes: How far to read on when the header turns out to be longer; None: as much again.
        """
        self.path = path
        self.data = b""
        self.size_bytes = size_bytes
        self.section = "header"
        self._read = read
        self._first_bytes = first_bytes
        self._ahead_bytes = ahead_bytes

    def need(self, end: int) -> bytes:
        """Return `data` with at least `end` bytes in it.

        Raises:
            ModelFileError: The file ends before that, or the header is larger than any model's.
        """
        have = len(self.data)
        if end <= have:
            return self.data
        if end > self.size_bytes:
            raise ModelFileError(
                f"{self.path} is incomplete: its {self.size_bytes:,} bytes end inside the {self.section}",
                fix=_FIX,
            )
        if end > MAX_HEADER_BYTES:
            raise damaged(self.path, f"its {self.section} goes on after {MAX_HEADER_BYTES // 1024**2} MiB")
        ahead = have if self._ahead_bytes is None or not have else self._ahead_bytes
        wanted = min(max(end, self._first_bytes, have + ahead), self.size_bytes, MAX_HEADER_BYTES)
        self.data = b"".join((self.data, self._read(have, wanted - have)))
        if end > len(self.data):
            raise ModelFileError(f"{self.path} became shorter while it was read", fix=_FIX)
        return self.data
