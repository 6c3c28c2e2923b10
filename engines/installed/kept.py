"""Small answers that took long to get, kept as JSON in llmrun's cache: each under a key of everything it depends on.

A file that cannot be read, or that belongs to another key, is as good as none; a cache that cannot be written costs
time, and nothing else. So neither is an error.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32

from llmrun.errors import StorageError
from llmrun.folders import cache_folder

__all__ = ["forget", "keep", "read_document", "read_kept"]

_MOST_BYTES = 4 << 20  # of one file: what is kept takes kilobytes


def read_kept(folder: str, key: str) -> Any:
    """Return what is kept under a key, or None."""
    try:
        document = read_document(_path(folder, key))
    except (OSError, StorageError):
        return None
    return document.get("value") if document is not None and document.get("key") == key else None


def read_document(path: Path) -> dict[str, Any] | None:
    """Return what a file of this kind holds, or None: it is damaged, or is none of ours."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def keep(folder: str, key: str, value: Any) -> bool:
    """Keep a value under a key, in one step, readable by this user only; return whether that could be done."""
    try:
        path = _path(folder, key)
    except (OSError, StorageError):
        return False
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"key": key, "value": value}, file)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def forget(folder: str, key: str) -> None:
    """Drop what is kept under a key."""
    try:
        _path(folder, key).unlink(missing_ok=True)
    except (OSError, StorageError):
        return


def _path(folder: str, key: str) -> Path:
    name = "".join(character if character.isalnum() or character in ".-" else "-" for character in key.split("\n")[0])
    return cache_folder(folder) / f"{name[:60]}-{crc32(os.fsencode(key)):08x}.json"
