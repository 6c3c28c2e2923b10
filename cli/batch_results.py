"""Where the results of a batch go: to a file that is safe at every moment, or to standard output."""

from pathlib import Path
from typing import Any, Protocol

from llmrun.cli.output import write_out
from llmrun.engines.batch.results import ResultFile, encode_result

__all__ = ["FileSink", "OutSink", "Sink"]


class Sink(Protocol):
    """Takes results."""

    def open(self) -> None:
        """Be ready for the first one. May be called again."""

    def append(self, record: dict[str, Any]) -> None:
        """Take one; when this returns, it is safe."""

    def close(self) -> None:
        """Take no more."""


class FileSink:
    """A file, made when the first result is near, so that a command that fails before leaves none behind.

    Args:
        path: Where it is.
        file: It, if there are results of an earlier run.
    """

    def __init__(self, path: Path, file: ResultFile | None) -> None:
        self._path = path
        self._file = file
        self._is_new = file is None

    def open(self) -> None:
        """Make the file, if there is none."""
        if self._file is None:
            self._file = ResultFile.create(self._path)

    def append(self, record: dict[str, Any]) -> None:
        """Write a result to the disk."""
        self.open()
        assert self._file is not None
        self._file.append(record)

    def close(self) -> None:
        """Close the file, and leave no empty one behind."""
        if self._file is not None:
            if self._is_new:
                self._file.remove_if_empty()
            self._file.close()


class OutSink:
    """Standard output, which is whoever's it is to keep."""

    def open(self) -> None:
        """It is open."""

    def append(self, record: dict[str, Any]) -> None:
        """Write a result."""
        write_out(encode_result(record).decode())

    def close(self) -> None:
        """It is not this command's to close."""
