"""The unfinished file of a download: what is there already, its running hash, and how it becomes the finished file.

The bytes go to `NAME.part` next to the target and nowhere else until they are complete and their hash is right; then
they are flushed to the disk and renamed. Whatever interrupts this leaves a `.part` that the next try goes on with.
`NAME.part.json` holds the server's ETag of those bytes, so that the rest is asked for only if they are still the same.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from llmrun.errors import NetworkError
from llmrun.models.store.errors import storage_errors
from llmrun.progress import Progress

__all__ = ["Digest", "PartFile"]

READ_BYTES = 4 << 20
_VALIDATOR = re.compile(r'"[\x21\x23-\x7e]{1,256}"')  # a strong ETag; a weak one cannot vouch for single bytes


@dataclass(frozen=True, slots=True)
class Digest:
    """What the bytes must hash to. `git-sha1` is git's hash of a blob, which the hub uses for small files."""

    algorithm: Literal["sha256", "git-sha1"]
    hex: str


class PartFile:
    """An open `.part` file. Use it as a context manager, under the lock of its target."""

    def __init__(self, target: Path, *, digest: Digest | None, size_bytes: int | None, mode: int) -> None:
        """Prepare the part of `target`; `mode` is that of the finished file before the umask."""
        self.path = target.with_name(target.name + ".part")
        self.size_bytes = 0
        self._state_path = target.with_name(target.name + ".part.json")
        self._target = target
        self._digest = digest
        self._expected_bytes = size_bytes
        self._mode = mode
        self._hash = self._new_hash()
        self._descriptor = -1

    def __enter__(self) -> Self:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self.path, flags, self._mode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def take_up(self, progress: Progress) -> None:
        """Hash the bytes that an earlier try left, so that writing can go on behind them."""
        there = os.fstat(self._descriptor).st_size
        if self._expected_bytes is not None and there > self._expected_bytes:
            self.restart()
            return
        if there == 0:
            return
        progress.begin(f"checking the {there >> 20} MiB that are there", there)
        try:
            while chunk := os.pread(self._descriptor, READ_BYTES, self.size_bytes):
                self._hash.update(chunk)
                self.size_bytes += len(chunk)
                progress.advance(len(chunk))
        finally:
            progress.finish()

    def restart(self) -> None:
        """Drop every byte."""
        with storage_errors(self.path):
            os.ftruncate(self._descriptor, 0)
        self._state_path.unlink(missing_ok=True)
        self._hash = self._new_hash()
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            StorageError: The disk is full or failed; what was written stays for the next try.
        """
        view = memoryview(chunk)
        while view:
            with storage_errors(self.path, kept_bytes=self.size_bytes):
                written = os.pwrite(self._descriptor, view, self.size_bytes)
            self._hash.update(view[:written])
            self.size_bytes += written
            view = view[written:]

    @property
    def validator(self) -> str | None:
        """The ETag under which the bytes came, or None when the server gave none that can vouch for them."""
        try:
            stored = json.loads(self._state_path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        etag = stored.get("etag") if isinstance(stored, dict) else None
        return etag if isinstance(etag, str) and _VALIDATOR.fullmatch(etag) else None

    def record_validator(self, etag: str | None) -> None:
        """Remember the ETag of the bytes that are about to be written."""
        self._state_path.unlink(missing_ok=True)
        if etag and _VALIDATOR.fullmatch(etag):
            with storage_errors(self._state_path):
                self._state_path.write_text(json.dumps({"version": 1, "etag": etag}), "utf-8")

    def matches(self) -> bool:
        """Tell whether size and hash are what they must be."""
        if self._expected_bytes is not None and self.size_bytes != self._expected_bytes:
            return False
        return self._digest is None or self._hash.hexdigest() == self._digest.hex

    def reject(self, name: str) -> NetworkError:
        """Remove the file, whose bytes are wrong, and return the error to raise."""
        found = self._hash.hexdigest()
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        wanted = self._digest.hex if self._digest else f"{self._expected_bytes} bytes"
        return NetworkError(
            f"{name} arrived damaged: {self._kind} is {found}, and it must be {wanted}; the file was removed",
            fix="pull it again; if it happens again, the server or something on the way changes the bytes",
        )

    def finish(self) -> Path:
        """Flush the bytes to the disk and give the file its name."""
        with storage_errors(self._target):
            os.fsync(self._descriptor)
            self.path.replace(self._target)
            self._state_path.unlink(missing_ok=True)
            folder = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return self._target

    @property
    def sha256(self) -> str | None:
        """The sha256 of the bytes, or None when another hash was computed."""
        return self._hash.hexdigest() if self._kind == "sha256" else None

    @property
    def _kind(self) -> str:
        return self._digest.algorithm if self._digest else "sha256"

    def _new_hash(self) -> "hashlib._Hash":
        if self._kind == "sha256":
            return hashlib.sha256()
        # Source: "Git Objects" in Pro Git; sha1 names the object there, it protects nothing.
        return hashlib.sha1(b"blob %d\0" % (self._expected_bytes or 0), usedforsecurity=False)
