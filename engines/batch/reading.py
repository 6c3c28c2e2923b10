"""The file of requests, read twice: once to check all of it before anything is loaded, once to answer it.

Of a million requests no more is kept than a fingerprint of each id while the file is checked, and one byte each
afterwards. What can be read only once (standard input, a pipe) is copied to a temporary file.
"""

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from llmrun.engines.batch.request import BatchDefaults, BatchItem, parse_item
from llmrun.engines.batch.results import Known, id_mark
from llmrun.errors import StorageError, UsageError
from llmrun.progress import SILENT, Progress

__all__ = ["BatchFile", "Census"]

_LONGEST_LINE_BYTES = 64 << 20
_WORTH_SHOWING_BYTES = 16 << 20  # about a second
_REPORT_LINES = 1000
_TO_DO, _DONE, _FAILED = b"\0\1\2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What there is to do.

    Attributes:
        states: A byte for each request, in the order of the file: to do, done, or failed and not to be asked again.
        unknown: Results of an earlier run that no request belongs to.
    """

    states: bytearray
    unknown: int

    @property
    def total(self) -> int:
        """All requests."""
        return len(self.states)

    @property
    def to_do(self) -> int:
        """Those that are to be asked now."""
        return self.states.count(_TO_DO)

    @property
    def failed(self) -> int:
        """Those that failed in an earlier run and are left at that."""
        return self.states.count(_FAILED)


class BatchFile:
    """An open file of requests. Use it in a `with` block.

    Args:
        name: A path, or `-` for standard input.

    Raises:
        UsageError: There is no such file, or it is none.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        self._reported = 0  # bytes that progress was told of
        try:
            self._file = _spool(sys.stdin.buffer) if name == "-" else _open(Path(name))
        except IsADirectoryError as error:
            raise UsageError(f"--batch wants a file of requests, and {name} is a folder") from error
        except (OSError, AttributeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is closed"
            raise UsageError(f"--batch {name} cannot be read: {cause}", fix="a file with one request a line") from error
        self._fingerprint = self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def is_same_as(self, path: Path) -> bool:
        """Return whether a path names this very file."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        return False

    def check(self, defaults: BatchDefaults, known: Known, progress: Progress, *, retry_errors: bool = False) -> Census:
        """Read every request, and see what an earlier run has done of them.

        Args:
            defaults: What holds for requests that do not say otherwise.
            known: Results that are there; it is empty afterwards.
            progress: Shows how far this is.
            retry_errors: Requests that failed are to be asked again.

        Raises:
            UsageError: A line is no request, an id is there twice, or a result is of another request of that id.
        """
        states = bytearray()
        lines: dict[bytes, int] = {}
        progress = progress if self._fingerprint[0] >= _WORTH_SHOWING_BYTES else SILENT
        progress.begin("checking the requests", self._fingerprint[0])
        try:
            for item, size in self._read(defaults):
                mark = id_mark(item.id)
                before = lines.setdefault(mark, item.line)
                if before != item.line:
                    raise UsageError(
                        f"line {item.line}: the id {item.id!r} is that of line {before} already",
                        fix="ids of their own, or none: then the number of the line is the id",
                    )
                states.append(_state(item, known, retry_errors=retry_errors))
                if len(states) % _REPORT_LINES == 0 or size > _LONGEST_LINE_BYTES >> 6:
                    progress.advance(self._file.tell() - self._reported)
                    self._reported = self._file.tell()
            progress.advance(self._file.tell() - self._reported)
        except UsageError as error:
            raise UsageError(f"{self.name}, {error.message}", fix=error.fix) from error
        finally:
            progress.finish()
        if not states:
            raise UsageError(f"{self.name} holds no requests", fix='one request a line: {"prompt": "Why?"}')
        return Census(states=states, unknown=len(known.results))

    def items(self, defaults: BatchDefaults, census: Census) -> Iterator[BatchItem]:
        """Yield the requests that are to be asked.

        Raises:
            UsageError: The file is not what it was when it was checked.
        """
        numbers = iter(census.states)
        for item, _ in self._read(defaults):
            if self._look() != self._fingerprint:
                raise UsageError(
                    f"{self.name} was changed while it was being answered", fix="--resume, when it is done"
                )
            if next(numbers) == _TO_DO:
                yield item

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def _read(self, defaults: BatchDefaults) -> Iterator[tuple[BatchItem, int]]:
        """Yield each request with the bytes of its line; lines with nothing but space are passed over."""
        self._file.seek(0)
        self._reported = 0
        number = 0
        while line := self._file.readline(_LONGEST_LINE_BYTES + 1):
            number += 1
            if len(line) > _LONGEST_LINE_BYTES:
                raise UsageError(f"line {number} is longer than the {_LONGEST_LINE_BYTES >> 20} MiB that one may be")
            if not line.isspace():
                yield parse_item(line, number, defaults), len(line)


def _state(item: BatchItem, known: Known, *, retry_errors: bool) -> int:
    """Return what is to be done about a request, and take its result out of the known ones."""
    result = known.results.pop(id_mark(item.id), None)
    if result is None or (result.failed and retry_errors):
        return _TO_DO
    if result.digest != item.digest:
        raise UsageError(
            f"line {item.line}: the request with the id {item.id!r} is not the one that was answered under it: its "
            "text or its options have changed",
            fix="the options of the first run, or another --output",
        )
    return _FAILED if result.failed else _DONE


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    with file:
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not file.isatty()):
            raise UsageError(f"--batch wants a file of requests, and {path} is a device")
        return _spool(file)


def _spool(source: BinaryIO) -> BinaryIO:
    """Copy what can be read only once."""
    target = tempfile.TemporaryFile(prefix="llmrun-batch-")  # noqa: SIM115 - the caller closes it
    try:
        shutil.copyfileobj(source, target)
        target.flush()
    except OSError as error:
        target.close()
        raise StorageError(f"the requests cannot be copied to {tempfile.gettempdir()}: {error.strerror}") from error
    return target
