"""A model folder on this disk as a `FileSource`: its regular files, at its top only.

Whatever is not a regular file (a FIFO, a device, a socket, a link that leads nowhere) is not one of the model's files
and is never opened. Links to regular files count, because a hub cache is made of them. Nothing is mapped into memory:
a mapped file that becomes shorter kills the process that reads it.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from llmrun.errors import ModelFileError, ModelNotFoundError
from llmrun.models.sniff import open_regular

__all__ = ["LocalFolder"]

_MAX_FILES = 10_000


class LocalFolder:
    """The files at the top of a folder.

    Attributes:
        path: The folder.
        sizes: Size in bytes of every regular file in it, by name.
    """

    path: Path
    sizes: Mapping[str, int]

    def __init__(self, path: Path) -> None:
        """List the folder.

        Raises:
            ModelNotFoundError: There is no such folder.
            ModelFileError: It is a file, cannot be listed, or holds too many files to be a model.
        """
        self.path = path
        self.sizes = _list_files(path)

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes of a file from `start` on; fewer only at its end.

        Raises:
            ModelFileError: The file is not in the folder, cannot be read, or changed since the folder was listed.
        """
        if name not in self.sizes:
            raise ModelFileError(f"the folder {self.path} has no file {name}")
        try:
            descriptor, size_bytes = open_regular(self.path / name)
        except ModelNotFoundError as error:
            raise _changed(self.path / name) from error
        try:
            if size_bytes != self.sizes[name]:
                raise _changed(self.path / name)
            os.lseek(descriptor, start, os.SEEK_SET)
            return _read_whole(descriptor, min(length, max(size_bytes - start, 0)), self.path / name)
        except OSError as error:
            raise ModelFileError(f"cannot read {self.path / name}: {error.strerror or error}") from error
        finally:
            os.close(descriptor)


def _list_files(path: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError:  # a link that leads nowhere, or in circles
                    continue
                if stat.S_ISREG(status.st_mode):
                    sizes[entry.name] = status.st_size
                if len(sizes) > _MAX_FILES:
                    raise ModelFileError(f"the folder {path} has more than {_MAX_FILES:,} files: it is not a model")
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no folder {path}", fix="llmrun models list") from error
    except NotADirectoryError as error:
        raise ModelFileError(f"{path} is not a folder") from error
    except OSError as error:
        raise ModelFileError(f"the folder {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise ModelNotFoundError(f"{str(path)!r} cannot be the name of a folder: {error}") from error
    return sizes


def _read_whole(descriptor: int, length: int, path: Path) -> bytes:
    pieces: list[bytes] = []
    while length > 0:
        piece = os.read(descriptor, length)
        if not piece:
            raise _changed(path)
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _changed(path: Path) -> ModelFileError:
    return ModelFileError(f"{path} changed while it was read", fix="try again when the download has ended")
