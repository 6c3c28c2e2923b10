"""Small answers that took long to get, kept as JSON in llmrun's cache: each under a key of everything it depends on.

A file that cannot be read, or that belongs to another key, is as good as none; a cache that cannot be written costs
time, and nothing else. So neither is an error.
"""

import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32

from llmrun.errors import StorageError
from llmrun.folders import cache_folder

__all__ = ["forget", "keep", "read_kept"]


def read_kept(folder: str, key: str) -> Any:
    """Return what is kept under a key, or None."""
    try:
        document = json.loads(_path(folder, key).read_text(encoding="utf-8"))
    except (OSError, ValueError, StorageError):
        return None
    return document.get("value") if isinstance(document, dict) and document.get("key") == key else None


def keep(folder: str, key: str, value: Any) -> None:
    """Keep a value under a key, in one step, readable by this user only."""
    try:
        path = _path(folder, key)
        part = path.with_suffix(f".{os.getpid()}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"key": key, "value": value}, file)
        part.replace(path)
    except (OSError, StorageError):
        return


def forget(folder: str, key: str) -> None:
    """Drop what is kept under a key."""
    try:
        _path(folder, key).unlink(missing_ok=True)
    except (OSError, StorageError):
        return


def _path(folder: str, key: str) -> Path:
    name = "".join(character if character.isalnum() or character in ".-" else "-" for character in key.split("\n")[0])
    return cache_folder(folder) / f"{name[:60]}-{crc32(key.encode()):08x}.json"
