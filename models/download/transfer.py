"""Fetch one file so that it is either there, whole and verified, or not there at all.

The transfer goes on from the byte it had (Range with If-Range), hashes while it writes, waits for another llmrun that
fetches the same file, checks the disk before and while it writes, and renames at the end. It refuses bytes beyond the
announced size and a hash that does not match; a file that was put together from two tries and does not match is fetched
once more from the start before it is called damaged.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import NetworkError, StorageError
from llmrun.models.download.http import RETRY_AFTER_SECONDS, HttpError, HttpReply, HttpSession
from llmrun.models.download.part import Digest, PartFile
from llmrun.models.store.errors import free_bytes, storage_errors
from llmrun.progress import Progress

__all__ = ["Digest", "Transfer", "download", "format_bytes", "locked", "require_space"]

RESERVE_BYTES = 256 << 20  # stays free, so that the machine goes on working
SPACE_CHECK_BYTES = 256 << 20
PROGRESS_BYTES = 1 << 20  # a connection that broke after less than this has failed
PARTIAL_CONTENT = 206
RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What to fetch and where it belongs.

    Attributes:
        url: An https address.
        target: The finished file.
        lock: A lock file for the target; processes that fetch the same thing must name the same one.
        title: What to call it in progress and errors.
        size_bytes: The announced size, or None.
        digest: What it must hash to, or None when nobody says.
        extra_bytes: Room needed beyond the file, for unpacking it.
        mode: Of the finished file, before the umask.
    """

    url: str
    target: Path
    lock: Path
    title: str
    size_bytes: int | None = None
    digest: Digest | None = None
    extra_bytes: int = 0
    mode: int = 0o600


def download(transfer: Transfer, session: HttpSession, progress: Progress) -> Path:
    """Fetch a file unless it is there, and return its path.

    Raises:
        NetworkError: The server failed, or what it sent is damaged (and was removed).
        StorageError: The disk is too small, is full, or failed; the bytes so far are kept.
        SecurityError: The address must not be used.
    """
    if transfer.target.is_file():
        return transfer.target
    with locked(transfer.lock, transfer.title, progress, mode=transfer.mode & 0o664):
        if transfer.target.is_file():
            return transfer.target
        part = PartFile(transfer.target, digest=transfer.digest, size_bytes=transfer.size_bytes, mode=transfer.mode)
        with part:
            part.take_up(progress)
            resumed = part.size_bytes > 0
            _fetch_rest(transfer, part, session, progress)
            if not part.matches() and resumed:
                progress.note(f"{transfer.title}: what an earlier try left does not fit; starting over")
                part.restart()
                _fetch_rest(transfer, part, session, progress)
            if not part.matches():
                raise part.reject(transfer.title)
            return part.finish()


@contextmanager
def locked(lock: Path, title: str, progress: Progress, *, mode: int = 0o600) -> Iterator[None]:
    """Hold a lock between processes, and say so when another one has it. A killed holder's lock is free at once."""
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    holder: BaseFileLock = FileLock(str(lock), mode=mode)
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            holder.acquire(blocking=False)
        except NotImplementedError:  # a file system without flock
            holder = SoftFileLock(str(lock), mode=mode)
            holder.acquire()
        except Timeout:
            progress.note(f"another process is fetching {title}: waiting for it")
            holder.acquire()
    try:
        yield
    finally:
        holder.release()


def require_space(folder: Path, needed_bytes: int, title: str) -> None:
    """Refuse to start what cannot be finished.

    Raises:
        StorageError: Less than `needed_bytes` and the reserve is free.
    """
    free = free_bytes(folder)
    if free < needed_bytes + RESERVE_BYTES:
        raise StorageError(
            f"the disk is too full for {title}: {format_bytes(needed_bytes)} needed and {format_bytes(RESERVE_BYTES)} "
            f"kept free, {format_bytes(free)} free at {folder}",
            fix="make room (llmrun models list shows what takes it), or point the cache to another disk",
        )


def format_bytes(count: int) -> str:
    """Return a size for people: `98.4 MiB`, `4.1 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _fetch_rest(transfer: Transfer, part: PartFile, session: HttpSession, progress: Progress) -> None:
    """Fetch what is missing, over as many connections as it takes while they bring something."""
    failures = 0
    while transfer.size_bytes is None or part.size_bytes < transfer.size_bytes:
        before = part.size_bytes
        try:
            _fetch_once(transfer, part, session, progress)
        except HttpError as error:
            failures = 0 if part.size_bytes >= before + PROGRESS_BYTES else failures + 1
            # A server that stalls again right after it answered has cost enough time.
            final = failures > (0 if error.stalled else len(RETRY_AFTER_SECONDS))
            if final or not (error.passing or error.stalled):
                raise
            progress.note(f"{error.message}; going on after {format_bytes(part.size_bytes)}")
            time.sleep(RETRY_AFTER_SECONDS[max(failures - 1, 0)])
        else:
            return


def _fetch_once(transfer: Transfer, part: PartFile, session: HttpSession, progress: Progress) -> None:
    headers = {"range": f"bytes={part.size_bytes}-"} if part.size_bytes else {}
    validator = part.validator
    if headers and validator:
        headers["if-range"] = validator
    with session.open(transfer.url, headers=headers) as reply:
        total = _continue_or_restart(reply, transfer, part)
        if reply.status == RANGE_NOT_SATISFIABLE:
            raise HttpError(f"the server does not have the rest of {transfer.title}", passing=True)
        missing = (total or part.size_bytes) - part.size_bytes
        require_space(transfer.target.parent, missing + transfer.extra_bytes, transfer.title)
        progress.begin(transfer.title, total, "bytes", part.size_bytes)
        try:
            _copy(reply, total, transfer, part, progress)
        finally:
            progress.finish()
    if total is not None and part.size_bytes < total:
        raise HttpError(f"the connection ended before {transfer.title} did", passing=True)


def _continue_or_restart(reply: HttpReply, transfer: Transfer, part: PartFile) -> int | None:
    """Bring the part in line with what the server is about to send; return the total size, if it is known."""
    length = reply.headers.get("content-length", "")
    announced = int(length) if length.isascii() and length.isdigit() else None
    if reply.status == PARTIAL_CONTENT:
        start = reply.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
        if start != str(part.size_bytes):
            part.restart()
            raise HttpError(f"the server sent another part of {transfer.title} than asked for", passing=True)
        total = None if announced is None else part.size_bytes + announced
    else:  # the whole file, or 416: what is there is no beginning of it
        if part.size_bytes:
            part.restart()
        part.record_validator(None if reply.status == RANGE_NOT_SATISFIABLE else reply.headers.get("etag"))
        total = announced
    if transfer.size_bytes is None or reply.status == RANGE_NOT_SATISFIABLE:
        return total
    if total is not None and total != transfer.size_bytes:
        part.restart()
        raise NetworkError(
            f"{transfer.title} was announced with {transfer.size_bytes:,} bytes, and the server sends {total:,}"
        )
    return transfer.size_bytes


def _copy(reply: HttpReply, total: int | None, transfer: Transfer, part: PartFile, progress: Progress) -> None:
    check_at = part.size_bytes + SPACE_CHECK_BYTES
    for chunk in reply.chunks():
        if total is not None and part.size_bytes + len(chunk) > total:
            part.restart()
            raise NetworkError(f"the server sends more of {transfer.title} than the {total:,} bytes it announced")
        part.write(chunk)
        progress.advance(len(chunk))
        if part.size_bytes >= check_at:
            require_space(transfer.target.parent, transfer.extra_bytes, transfer.title)
            check_at += SPACE_CHECK_BYTES
