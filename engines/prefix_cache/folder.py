"""The folder of the prefix cache as a whole: its limit, what is in it, making room, and emptying it.

All models share one limit. The least recently used entries go first: an entry's time of modification is the time of
its last use. A process that has an entry mapped keeps its data when the name goes, so removing one harms nobody.

Only files that have a name of this cache, in a folder that has one, are ever listed, and so removed: pointed at a
folder of something else, the cache leaves that alone.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmrun.engines.prefix_cache.file import DamagedEntryError, EntryHead, read_head
from llmrun.errors import UsageError

__all__ = [
    "SUFFIX",
    "StoredFile",
    "free_bytes",
    "limit_bytes",
    "list_entries",
    "list_files",
    "make_room",
    "remove_everything",
]

SUFFIX = ".prefix"
LIMIT_VARIABLE = "LLMRUN_PREFIX_CACHE_LIMIT"

_MODEL_FOLDER = re.compile(r"[0-9a-f]{32}")
_OWN_FILE = re.compile(r"[0-9a-f]{32}(?:\.prefix|\.[0-9]+\.[0-9a-f]+\.part)")
_DEFAULT_LIMIT_BYTES = 4 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_ABANDONED_SECONDS = 600.0  # an unfinished file that is older has lost its writer


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file in the cache, unread."""

    path: Path
    size_bytes: int
    used_at: float


def limit_bytes() -> int:
    """Return how large the cache may become: 4 GiB, or what LLMRUN_PREFIX_CACHE_LIMIT says (`512M`, `8G`; 0 is none).

    Raises:
        UsageError: The variable holds something else.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip().upper()
    if not text:
        return _DEFAULT_LIMIT_BYTES
    digits = text.rstrip("IB").rstrip("KMGT")
    unit = text.rstrip("IB")[len(digits) :]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 15 and unit in _UNITS):
        raise UsageError(f"{LIMIT_VARIABLE} is {text!r}, which is no size", fix=f"for example {LIMIT_VARIABLE}=2G")
    return int(digits) * _UNITS[unit]


def free_bytes(folder: Path) -> int:
    """Return what this user may still write there.

    Raises:
        OSError: The folder cannot be asked.
    """
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def list_files(folder: Path) -> list[StoredFile]:
    """Return every file of every model, the least recently used first. Links are listed as the links they are."""
    found = []
    for place in _children(folder):
        if not _MODEL_FOLDER.fullmatch(place.name) or not place.is_dir(follow_symlinks=False):
            continue
        for entry in _children(place.path):
            with suppress(OSError):  # another process has just removed it
                status = entry.stat(follow_symlinks=False)
                if _OWN_FILE.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                    found.append(StoredFile(path=Path(entry.path), size_bytes=status.st_size, used_at=status.st_mtime))
    return sorted(found, key=lambda file: (file.used_at, file.path.name))


def list_entries(folder: Path) -> Iterator[EntryHead]:
    """Yield the head of every entry that is whole as far as its head tells, the least recently used first."""
    for file in list_files(folder):
        if file.path.suffix == SUFFIX:
            with suppress(OSError, DamagedEntryError):
                yield read_head(file.path, None)


def make_room(folder: Path, limit: int, needed_bytes: int) -> None:
    """Remove the least recently used entries until `needed_bytes` more stay within `limit`, and what was abandoned."""
    total = needed_bytes
    kept = []
    for file in list_files(folder):
        if file.path.suffix != SUFFIX and time.time() - file.used_at > _ABANDONED_SECONDS:
            _unlink(file.path)
            continue
        total += file.size_bytes
        if file.path.suffix == SUFFIX:
            kept.append(file)
    for file in kept:
        if total <= limit:
            return
        if _unlink(file.path):
            total -= file.size_bytes


def remove_everything(folder: Path) -> tuple[int, int]:
    """Remove every file below `folder`, and return how many entries went and how many bytes became free.

    Raises:
        OSError: A file cannot be removed.
    """
    count = freed = 0
    for file in list_files(folder):
        file.path.unlink(missing_ok=True)
        count += file.path.suffix == SUFFIX
        freed += file.size_bytes
    for place in _children(folder):
        if not _MODEL_FOLDER.fullmatch(place.name):
            continue
        with suppress(OSError):  # an entry came meanwhile, or it is a link
            Path(place.path).rmdir()
    return count, freed


def _children(folder: Path | str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _unlink(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
