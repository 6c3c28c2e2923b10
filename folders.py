"""Where llmrun keeps things on this machine: a cache, and what cannot be fetched again. Both private to their user."""

import os
from pathlib import Path

from llmrun.errors import StorageError

__all__ = ["cache_folder", "data_folder"]


def cache_folder(*parts: str) -> Path:
    """Return a folder below llmrun's cache, created with mode 0700 if it is not there.

    `LLMRUN_CACHE_DIR` names another root than the platform's (`~/.cache/llmrun` on Linux).

    Raises:
        StorageError: The folder cannot be created.
    """
    return _folder("LLMRUN_CACHE_DIR", "cache", parts)


def data_folder(*parts: str) -> Path:
    """Return a folder below llmrun's data, for what cannot be fetched again; created with mode 0700 if not there.

    `LLMRUN_DATA_DIR` names another root than the platform's (`~/.local/share/llmrun` on Linux).

    Raises:
        StorageError: The folder cannot be created.
    """
    return _folder("LLMRUN_DATA_DIR", "data", parts)


def _folder(variable: str, kind: str, parts: tuple[str, ...]) -> Path:
    override = os.environ.get(variable)
    if override:
        root = Path(override)
    else:
        from platformdirs import user_cache_path, user_data_path

        root = (user_cache_path if kind == "cache" else user_data_path)("llmrun")
    folder = root.joinpath(*parts)
    try:
        _make_private(folder, root)
    except OSError as error:
        raise StorageError(
            f"cannot create the {kind} folder {folder}: {error.strerror or error}",
            fix=f"set {variable} to a folder that can be written",
        ) from error
    return folder


def _make_private(folder: Path, root: Path) -> None:
    """Create `folder` and what is missing above it, up to `root`, each with mode 0700; `parents=True` would not."""
    if folder.is_dir():
        return
    if folder == root:
        folder.parent.mkdir(parents=True, exist_ok=True)
    else:
        _make_private(folder.parent, root)
    folder.mkdir(mode=0o700, exist_ok=True)
