"""One session on disk: JSON lines that are only ever appended, each of them on the disk before anything else happens.

A record is written by one call and synchronized. A process that is killed in between leaves at most the beginning of a
line at the end of the file, which the next one that opens it removes. While a file is open it is locked, so that two
chats cannot interleave. The lock is on the file itself: nothing is left beside it, and the system releases it whatever
becomes of its holder.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llmrun.engines import append_only
from llmrun.engines.conversation.records import Header, Record, decode_header, decode_record, encode_record
from llmrun.errors import ModelFileError, StorageError, UsageError

__all__ = ["SUFFIX", "Loaded", "SessionFile", "read_session"]

SUFFIX = ".jsonl"
_BEGINNING = b'{"type": "session"'
_MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a session file holds.

    Attributes:
        header: Its first line; None if that was cut off, so that there is nothing.
        records: The others, in order.
        torn_bytes: How many bytes at its end are no whole line.
    """

    header: Header | None
    records: tuple[Record, ...]
    torn_bytes: int


def read_session(path: Path) -> Loaded:
    """Return what a session file holds; the file is not changed, and may be in use.

    Raises:
        ModelFileError: It is no session, or is damaged; the message has the line.
        StorageError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                raise ModelFileError(f"the session {path} is larger than {_MAX_BYTES >> 20} MiB")
            data = file.read()
    except OSError as error:
        raise StorageError(f"the session {path} cannot be read: {error.strerror or error}") from error
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> Loaded:
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].split(b"\n")[:-1]
    if not lines:
        if data[: len(_BEGINNING)] != _BEGINNING[: len(data)]:
            raise ModelFileError(f"{path} is no session: it has no whole line")
        return Loaded(header=None, records=(), torn_bytes=len(data))
    records: list[Record] = []
    header: Header | None = None
    try:
        header = decode_header(lines[0])
        records += map(decode_record, lines[1:])  # what came before a bad line stays, and is counted
    except ValueError as error:
        number = 1 if header is None else len(records) + 2
        raise ModelFileError(
            f"the session {path} cannot be used: line {number}: {error}",
            fix="mend that line, or remove the file; docs/sessions.md has the form",
        ) from error
    return Loaded(header=header, records=tuple(records), torn_bytes=len(data) - whole)


class SessionFile:
    """A session that this process, and no other, writes to. The file appears with the first record.

    Args:
        path: Where it is, or will be.
        header: What a new one begins with.

    Attributes:
        path: Where it is.
        loaded: What was in it when it was opened; None if it was not there.

    Raises:
        UsageError: Another chat has it open.
        ModelFileError: It is no session, or is damaged.
        StorageError: It cannot be read or written.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.loaded: Loaded | None = None
        self._header = header
        self._descriptor: int | None = None
        self._has_header = False
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if not self.path.exists():
            return
        self._descriptor = self._open_descriptor(os.O_RDWR)
        self.loaded = read_session(self.path)
        self._has_header = self.loaded.header is not None
        if self.loaded.torn_bytes:
            self._cut(os.fstat(self._descriptor).st_size - self.loaded.torn_bytes)

    def _open_descriptor(self, flags: int) -> int:
        """Open and lock the file."""
        try:
            descriptor = os.open(self.path, flags | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        except FileExistsError as error:
            raise _in_use(self.path) from error
        except OSError as error:
            raise _storage_error(self.path, error) from error
        try:
            append_only.lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise _in_use(self.path) from error
        return descriptor

    def _cut(self, size: int) -> None:
        assert self._descriptor is not None
        try:
            append_only.cut(self._descriptor, size)
        except OSError as error:
            raise _storage_error(self.path, error) from error

    @property
    def exists(self) -> bool:
        """Whether anything was written yet."""
        return self._has_header

    def append(self, *records: Record) -> None:
        """Write records to the end; when this returns, they are on the disk. All of them are, or none.

        Raises:
            StorageError: The disk is full, or the file cannot be written; what was there before still is.
        """
        lines = [encode_record(record) for record in records]
        if not self._has_header:
            lines.insert(0, encode_record(self._header))
        is_new = self._descriptor is None
        if self._descriptor is None:
            self._descriptor = self._open_descriptor(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            append_only.append_synced(self._descriptor, b"".join(lines), os.fstat(self._descriptor).st_size)
            if is_new:
                append_only.sync_folder(self.path.parent)
        except OSError as error:
            raise _storage_error(self.path, error) from error
        self._has_header = True

    def close(self) -> None:
        """Let go of it. May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_use(path: Path) -> UsageError:
    return UsageError(
        f"another chat has the session {path.stem} open", fix="end that one, or take another name: --session NAME"
    )


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"the session {path} cannot be written: {error.strerror or error}",
        fix="make room or set LLMRUN_DATA_DIR to a folder that can be written",
    )
