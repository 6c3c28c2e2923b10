"""The file of results: JSON, one result a line, only ever appended to, each on the disk before it counts as done.

A line that was not written whole (the power went, the process was killed) is cut off when the file is opened again:
it can only be the last one, and its request is asked once more. An id may be there more than once after errors were
retried; its last line counts. What is not a file of results is never touched.
"""

import contextlib
import errno
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llmrun.engines import append_only
from llmrun.errors import StorageError, UsageError

__all__ = ["SCHEMA_VERSION", "Known", "KnownResult", "ResultFile", "encode_result", "exists_error", "id_mark"]

SCHEMA_VERSION = 1
_BEGINNING = f'{{"version":{SCHEMA_VERSION},"id":"'.encode()
_MARK_BYTES = 12
_NOT_THE_FILES = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
_OTHER_FILE = "another --output"


class KnownResult(NamedTuple):
    """What is kept of a result: which request it answers, and whether that failed."""

    digest: str
    failed: bool


@dataclass(slots=True)
class Known:
    """The results of earlier runs.

    Attributes:
        results: By the marks of their ids.
        models: The models that gave them: reference and SHA-256, if that was known.
        cut_bytes: How much of a last line that was not whole was cut off.
    """

    results: dict[bytes, KnownResult] = field(default_factory=dict)
    models: set[tuple[str, str | None]] = field(default_factory=set)
    cut_bytes: int = 0


def id_mark(name: str) -> bytes:
    """Return a fingerprint of an id; a million of them take less memory than the ids."""
    return hashlib.blake2b(name.encode(), digest_size=_MARK_BYTES).digest()


def encode_result(record: dict[str, Any]) -> bytes:
    """Return a result as a line."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


class ResultFile:
    """An open file of results, which no other process writes to meanwhile.

    Attributes:
        path: Where it is.
        known: What it held when it was opened.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.known = Known()
        self._descriptor = descriptor
        self._size = 0

    @classmethod
    def create(cls, path: Path) -> "ResultFile":
        """Make a new file.

        Raises:
            UsageError: There is one already.
            StorageError: It cannot be made.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except FileExistsError as error:
            raise exists_error(path) from error
        except OSError as error:
            raise StorageError(f"{path} cannot be made: {error.strerror}") from error
        made = cls(path, descriptor)
        try:
            made._lock()
            with contextlib.suppress(OSError):  # where a folder cannot be synchronized there is no need to
                append_only.sync_folder(path.parent)
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def resume(cls, path: Path) -> "ResultFile | None":
        """Open a file to go on with, or return None if there is none.

        Raises:
            UsageError: It is not one of results, or another process is writing to it.
            StorageError: It cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path} cannot be opened to go on with it: {error.strerror}") from error
        found = cls(path, descriptor)
        try:
            if not path.is_file():
                raise UsageError(f"{path} is not a file that results could be appended to")
            found._lock()
            found._scan()
        except BaseException:
            found.close()
            raise
        return found

    def append(self, record: dict[str, Any]) -> None:
        """Write a result, and see it on the disk.

        Raises:
            StorageError: It cannot be written; the file is as it was before.
        """
        data = encode_result(record)
        try:
            append_only.append_synced(self._descriptor, data, self._size)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be written: {error.strerror}; the results before are there",
                fix="make room, then the same command with --resume",
            ) from error
        self._size += len(data)

    def remove_if_empty(self) -> None:
        """Remove a new file that nothing was written to."""
        if self._descriptor >= 0 and not self._size:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def close(self) -> None:
        """Let go of it. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self) -> None:
        try:
            append_only.lock(self._descriptor)
        except BlockingIOError as error:
            raise UsageError(f"another llmrun is writing to {self.path}", fix="wait for its end") from error
        except OSError as error:
            if error.errno not in _NOT_THE_FILES:
                raise StorageError(f"{self.path} cannot be locked: {error.strerror}") from error

    def _scan(self) -> None:
        """Read what is there, and cut off a last line that is not whole."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(0)
            self._size = self._read(file, size)
        if self._size < size:
            self.known.cut_bytes = size - self._size
            try:
                append_only.cut(self._descriptor, self._size)
            except OSError as error:
                raise StorageError(f"{self.path} cannot be repaired: {error.strerror}") from error

    def _read(self, file: BinaryIO, size: int) -> int:
        """Take in every result; return how many bytes of the file are whole lines."""
        whole = 0
        for number, line in enumerate(file, 1):
            result = _parse(line) if line.endswith(b"\n") else None
            if result is None:
                if whole + len(line) < size or not _may_be_torn(line):
                    raise UsageError(
                        f"line {number} of {self.path} is not a result of a batch, version {SCHEMA_VERSION}",
                        fix=_OTHER_FILE,
                    )
                break
            mark, found, model = result
            self.known.results[mark] = found
            self.known.models.add(model)
            whole += len(line)
        return whole


def exists_error(path: Path) -> UsageError:
    """Return the refusal to write over what is there."""
    return UsageError(
        f"{path} is there already, and results are never written over",
        fix="--resume goes on with it, --retry-errors asks what failed again, or another --output",
    )


def _parse(line: bytes) -> tuple[bytes, KnownResult, tuple[str, str | None]] | None:
    """Return what a line says: the mark of its id, its result and its model; None if it is not a result."""
    try:
        record = json.loads(line)
        model = record["model"]["reference"], record["model"]["sha256"]
        found = KnownResult(record["request"], record["error"] is not None)
        if record["version"] != SCHEMA_VERSION or not isinstance(found.digest, str):
            return None
        return id_mark(record["id"]), found, model
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _may_be_torn(line: bytes) -> bool:
    """Whether a last line is the beginning of a result, or the emptiness that a loss of power leaves."""
    return line.startswith(_BEGINNING) or _BEGINNING.startswith(line) or not line.strip(b"\0\n")
