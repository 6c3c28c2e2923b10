"""One file of the prefix cache: the state of the engine after a list of tokens, and everything that proves it whole.

Layout, little-endian: a header of fixed size, the label (a name for people), the token ids as int32, the state. Two
checks, because a search reads the beginning of every file and loads one: a CRC-32 covers header, label and tokens; a
SHA-256 covers the state. What fails a check, has another version, another key, another owner, or is no regular file is
`DamagedEntryError`, whatever is in it: sizes are compared with the file's real size before anything is allocated.

The state is mapped and not read: at 46 MB from the page cache, mapping and copying it into the engine took 5 ms, a read
into a buffer first 45 ms. SHA-256 took 26 ms (blake2b 50, CRC-32 alone 11): it has instructions of its own on
processors since about 2019, and blocks of it are computed by several threads where a state is large.
"""

import errno
import hashlib
import mmap
import os
import stat
import struct
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

__all__ = ["DamagedEntryError", "EntryHead", "MappedState", "key_hash", "map_state", "read_head", "write_entry"]

VERSION = 1
_MAGIC = b"llmrunKV"
_HEADER = struct.Struct("<8sIIII32s32sQQ")  # magic, version, CRC-32, label bytes, 0, key, digest, tokens, state bytes
_CRC_AT = 12
_BLOCK_BYTES = 8 << 20
_MOST_TOKENS = 1 << 28
_MOST_LABEL_BYTES = 255
_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EACCES)
_NOT_MINE = stat.S_IWGRP | stat.S_IWOTH


class DamagedEntryError(Exception):
    """The file is no whole entry of this version, key and user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryHead:
    """What the beginning of an entry says.

    Attributes:
        path: The file.
        label: A name of the model, for people.
        tokens: The tokens that the state covers.
        state_bytes: Size of the state.
        digest: Of the state.
        offset: Where the state begins.
        used_at: When the entry was written or last used, in seconds since the epoch.
    """

    path: Path
    label: str
    tokens: "array[int]"
    state_bytes: int
    digest: bytes
    offset: int
    used_at: float

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.offset + self.state_bytes


class MappedState:
    """The verified state of an entry, mapped copy-on-write: usable by ctypes without a copy, never written back."""

    def __init__(self, mapping: mmap.mmap, view: memoryview) -> None:
        self._mapping = mapping
        self.view = view

    def close(self) -> None:
        """Give the mapping back, now or when its last user is gone."""
        try:
            self.view.release()
            self._mapping.close()
        except BufferError:  # a ctypes array still shows it
            return


def key_hash(model_key: str) -> bytes:
    """Return what stands for a model, its engine and this format in names and headers."""
    return hashlib.sha256(f"{VERSION}\n{model_key}".encode()).digest()


def read_head(path: Path, key: bytes | None) -> EntryHead:
    """Read header, label and tokens; `key` None accepts every model.

    Raises:
        DamagedEntryError: It is no whole entry, or not one of this key.
        OSError: It cannot be read.
    """
    descriptor = _open(path)
    try:
        return _read_head(descriptor, path, key)
    finally:
        os.close(descriptor)


def map_state(head: EntryHead, key: bytes) -> MappedState:
    """Map the state of an entry and verify it.

    Raises:
        DamagedEntryError: It is not what its header says.
        OSError: It cannot be read.
    """
    descriptor = _open(head.path)
    try:
        again = _read_head(descriptor, head.path, key)
        if (again.digest, again.tokens) != (head.digest, head.tokens):
            raise DamagedEntryError("the file was replaced")
        mapping = mmap.mmap(descriptor, again.size_bytes, access=mmap.ACCESS_COPY)
    except ValueError as error:  # it has become shorter meanwhile
        raise DamagedEntryError("the file was cut short") from error
    finally:
        os.close(descriptor)
    state = MappedState(mapping, memoryview(mapping)[again.offset :])
    if _digest(state.view, threads=min(4, os.cpu_count() or 1)) != again.digest:
        state.close()
        raise DamagedEntryError("the state is damaged")
    return state


def write_entry(path: Path, key: bytes, label: str, tokens: "array[int]", state: memoryview) -> None:
    """Write an entry beside `path`, readable by this user only, and move it there in one step.

    Nothing is synced: an entry that a power failure leaves incomplete fails its checks, and is written again.

    Raises:
        OSError: The disk is full, or the folder cannot be written; nothing is left behind.
    """
    name = label.encode("utf-8", "replace")[:_MOST_LABEL_BYTES]
    ids = tokens.tobytes()
    digest = _digest(state, threads=1)
    head = bytearray(_HEADER.pack(_MAGIC, VERSION, 0, len(name), 0, key, digest, len(tokens), state.nbytes))
    struct.pack_into("<I", head, _CRC_AT, _checksum(bytes(head), name, ids))
    part = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident():x}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            for data in (head, name, ids, state):
                _write(descriptor, memoryview(data))
        finally:
            os.close(descriptor)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _open(path: Path) -> int:
    """Open a file without following a link, and without waiting for the other end of a pipe."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise DamagedEntryError("a link, a socket, or not readable") from error
        raise


def _read_head(descriptor: int, path: Path, key: bytes | None) -> EntryHead:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _NOT_MINE:
        raise DamagedEntryError("not a file that only this user can write")
    header = os.pread(descriptor, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        raise DamagedEntryError("shorter than a header")
    magic, version, checksum, label_bytes, _, found, digest, count, state_bytes = _HEADER.unpack(header)
    if magic != _MAGIC or version != VERSION or (key is not None and found != key):
        raise DamagedEntryError("of another version, or of another model")
    offset = _HEADER.size + label_bytes + 4 * count
    plausible = label_bytes <= _MOST_LABEL_BYTES and 0 < count <= _MOST_TOKENS and state_bytes
    if not plausible or offset + state_bytes != status.st_size:
        raise DamagedEntryError("its size is not what the header says")
    rest = os.pread(descriptor, offset - _HEADER.size, _HEADER.size)
    label, ids = rest[:label_bytes], rest[label_bytes:]
    if len(ids) != 4 * count or _checksum(header, label, ids) != checksum:
        raise DamagedEntryError("header or tokens are damaged")
    return EntryHead(
        path=path,
        label=label.decode("utf-8", "replace"),
        tokens=array("i", ids),
        state_bytes=state_bytes,
        digest=digest,
        offset=offset,
        used_at=status.st_mtime,
    )


def _checksum(header: bytes, label: bytes, ids: bytes) -> int:
    """Return the CRC-32 of the three, the field for it counted as zeros."""
    clean = header[:_CRC_AT] + bytes(4) + header[_CRC_AT + 4 :]
    return crc32(ids, crc32(label, crc32(clean)))


def _digest(data: memoryview, *, threads: int) -> bytes:
    """Return the SHA-256 over the SHA-256 of every block, so that blocks can be computed side by side."""
    blocks = [data[begin : begin + _BLOCK_BYTES] for begin in range(0, data.nbytes, _BLOCK_BYTES)]
    digests = [b""] * len(blocks)
    threads = min(threads, len(blocks))

    def work(first: int) -> None:
        for index in range(first, len(blocks), threads):
            digests[index] = hashlib.sha256(blocks[index]).digest()  # without the interpreter's lock

    others: Sequence[threading.Thread] = [threading.Thread(target=work, args=(first,)) for first in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()
    for block in blocks:
        block.release()
    return hashlib.sha256(b"".join(digests)).digest()


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
