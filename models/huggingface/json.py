"""Read the JSON files of a model folder, with limits: they come from strangers.

A file above 16 MiB, nested too deeply, or of another kind (a git-LFS pointer, an error page) is refused by name.
"""

import json
from collections.abc import Mapping
from typing import Any

from llmrun.errors import ModelFileError
from llmrun.models.file_source import FileSource
from llmrun.models.sniff import FileKind, identify

__all__ = ["MAX_JSON_BYTES", "find_json", "read_text"]

MAX_JSON_BYTES = 16 * 1024**2
# Small objects take far more memory than their text does; no configuration has so many.
_MAX_BRACKETS = 1_000_000


def find_json(source: FileSource, name: str, *, max_bytes: int = MAX_JSON_BYTES) -> Mapping[str, Any] | None:
    """Return the object that a JSON file holds; None when there is no such file.

    Raises:
        ModelFileError: The file is too large, damaged, or something else.
        NetworkError: The server failed.
    """
    text = read_text(source, name, max_bytes=max_bytes)
    if text is None:
        return None
    path = source.path / name
    try:
        if text.count("[") + text.count("{") > _MAX_BRACKETS:
            raise ValueError("it has too many parts")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        sniffed = identify(text[:512].encode(), len(text))
        if sniffed.kind in (FileKind.LFS_POINTER, FileKind.HTML, FileKind.EMPTY):
            raise ModelFileError(f"{path} is {sniffed.description}", fix=sniffed.fix) from error
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ModelFileError(f"{path} is not valid JSON: {reason}", fix="download the file again") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} must hold a JSON object", fix="download the file again")
    return found


def read_text(source: FileSource, name: str, *, max_bytes: int = MAX_JSON_BYTES) -> str | None:
    """Return a text file; None when there is no such file.

    Raises:
        ModelFileError: The file is too large, is not UTF-8, or changed while it was read.
        NetworkError: The server failed.
    """
    if name not in source.sizes:
        return None
    path, size_bytes = source.path / name, source.sizes[name]
    if size_bytes > max_bytes:
        raise ModelFileError(f"{path} has {size_bytes:,} bytes, more than the {max_bytes // 1024**2} MiB it may")
    data = source.read(name, 0, size_bytes)
    if len(data) != size_bytes:
        raise ModelFileError(f"{path} became shorter while it was read", fix="download the file again")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = identify(data[:512], size_bytes)
        raise ModelFileError(f"{path} is not UTF-8 text but {found.description}", fix=found.fix) from error
