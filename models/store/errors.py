"""What the operating system says about the cache, turned into StorageErrors; and how much room is left."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrun.errors import StorageError

__all__ = ["free_bytes", "storage_errors"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(folder: Path) -> int:
    """Return what may still be written below `folder`, which need not exist yet."""
    import shutil

    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    with storage_errors(folder):
        return shutil.disk_usage(folder).free


@contextmanager
def storage_errors(path: Path, *, kept_bytes: int | None = None) -> Iterator[None]:
    """Turn what the operating system says about a file of the cache into a StorageError."""
    try:
        yield
    except OSError as error:
        kept = "" if kept_bytes is None else f"; the {kept_bytes:,} bytes that are there were kept"
        if error.errno in NO_SPACE:
            raise StorageError(
                f"the disk is full: cannot write {path}{kept}",
                fix="make room (llmrun models list shows what takes it), then run the same command again: it goes on",
            ) from error
        raise StorageError(f"cannot use {path}: {error.strerror or error}{kept}") from error
