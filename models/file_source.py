"""Where the files of a model are: in a folder on this disk, or in a repository whose headers are read over the network.

Readers of headers take one of these, so that the same checks and the same facts come from a file that is here and
from one that has not been downloaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

__all__ = ["FileSource"]


class FileSource(Protocol):
    """The files of one model, of which any range of bytes can be read.

    Attributes:
        path: The folder; for a repository `ORG/NAME`, which messages and `ModelInfo.files` show.
        sizes: Size in bytes of every file, by its name relative to `path`.
    """

    @property
    def path(self) -> Path:
        """See above."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """See above."""
        ...

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes of a file from `start` on; fewer only at its end.

        Raises:
            ModelFileError: The file cannot be read or became shorter.
            NetworkError: The server failed.
        """
        ...
