"""The part of a file that has been read so far, growing as the header turns out to be longer.

The header is read into memory instead of being mapped: a mapped file that another program cuts short kills the
process with SIGBUS, a short read is an ordinary error.
"""

import os
from pathlib import Path

from llmrun.errors import ModelFileError

__all__ = ["MAX_HEADER_BYTES", "HeaderWindow", "damaged"]

_FIRST_READ_BYTES = 1024 * 1024
# The largest vocabulary in use (262,144 tokens, 514,906 merges) makes a header of 16 MiB.
MAX_HEADER_BYTES = 128 * 1024 * 1024


def damaged(path: Path, what: str) -> ModelFileError:
    """Return the error for a header that contradicts itself or the limits."""
    return ModelFileError(f"{path} is damaged: {what}", fix="download the file again")


class HeaderWindow:
    """The first `len(data)` bytes of a file.

    Attributes:
        path: For messages.
        data: What has been read; replaced, never changed, when more is read.
        size_bytes: Size of the whole file.
        section: What is being read now, for messages.
    """

    __slots__ = ("_descriptor", "data", "path", "section", "size_bytes")

    def __init__(self, path: Path, descriptor: int, size_bytes: int) -> None:
        self.path = path
        self.data = b""
        self.size_bytes = size_bytes
        self.section = "header"
        self._descriptor = descriptor

    def need(self, end: int) -> bytes:
        """Return `data` with at least `end` bytes in it.

        Raises:
            ModelFileError: The file ends before that, or the header is larger than any model's.
        """
        if end <= len(self.data):
            return self.data
        if end > self.size_bytes:
            raise ModelFileError(
                f"{self.path} is incomplete: its {self.size_bytes:,} bytes end inside the {self.section}",
                fix="download the file again",
            )
        if end > MAX_HEADER_BYTES:
            raise damaged(self.path, f"its {self.section} goes on after {MAX_HEADER_BYTES // 1024**2} MiB")
        wanted = min(max(end, _FIRST_READ_BYTES, 2 * len(self.data)), self.size_bytes, MAX_HEADER_BYTES)
        self._read_up_to(wanted)
        if end > len(self.data):
            raise ModelFileError(f"{self.path} became shorter while it was read", fix="download the file again")
        return self.data

    def _read_up_to(self, wanted: int) -> None:
        pieces = [self.data]
        have = len(self.data)
        try:
            while have < wanted:
                piece = os.read(self._descriptor, wanted - have)
                if not piece:
                    break
                pieces.append(piece)
                have += len(piece)
        except OSError as error:
            raise ModelFileError(f"cannot read {self.path}: {error.strerror or error}") from error
        self.data = b"".join(pieces)
