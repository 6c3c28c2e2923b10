"""Files that are only ever appended to, by one process at a time: sessions, results of a batch.

Every function raises OSError as the system does; whoever calls says what it means to the user.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["append_synced", "cut", "lock", "sync_folder"]


def lock(descriptor: int) -> None:
    """Keep every other process out that locks it too, for as long as the file is open: nothing is left beside it.

    Raises:
        BlockingIOError: Another process has it.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def append_synced(descriptor: int, data: bytes, size: int) -> None:
    """Write at the end of a file of `size` bytes; when this returns it is on the disk. All of it is, or nothing."""
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def cut(descriptor: int, size: int) -> None:
    """Take away what is behind the first `size` bytes."""
    os.ftruncate(descriptor, size)
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """See that a new file is found again after a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
