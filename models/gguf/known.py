"""Headers that this process has read and checked before, for one that lives longer than a command.

An ordinary command reads each header once and gains nothing here. A file counts as known while its size, time of change
and inode are what they were.
"""

from dataclasses import replace
from pathlib import Path

from llmrun.models.gguf.header import read_gguf_header
from llmrun.models.gguf.info import describe_gguf
from llmrun.models.gguf.types import GgufHeader
from llmrun.models.types import ModelInfo

__all__ = ["read_gguf", "remember_gguf"]

_Identity = tuple[tuple[int, int, int, int], ...]
_known: dict[Path, tuple[_Identity, GgufHeader, ModelInfo]] = {}


def read_gguf(path: Path, *, family: str | None = None) -> tuple[GgufHeader, ModelInfo]:
    """Return the header of a GGUF file and its facts.

    Args:
        path: The file; of a split model, any part.
        family: Catalogue family, which is only handed on.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: The file is not a model, is damaged or incomplete, or is of an unknown kind.
    """
    identity, header, info = _known.get(path, (None, None, None))
    if header is not None and info is not None and identity == _identify(header):
        return header, replace(info, family=family)
    header = read_gguf_header(path)
    return header, describe_gguf(header, family=family)


def remember_gguf(path: Path) -> None:
    """Read a header now, so that `read_gguf` has it at once.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: The file is not a model, is damaged or incomplete, or is of an unknown kind.
    """
    found = _known.get(path)
    if found is not None and found[0] == _identify(found[1]):
        return
    header = read_gguf_header(path)
    _known[path] = (_identify(header), header, describe_gguf(header))


def _identify(header: GgufHeader) -> _Identity:
    identity = []
    for part, _ in header.parts:
        try:
            found = part.stat()
        except OSError:
            return ()
        identity.append((found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev))
    return tuple(identity)
