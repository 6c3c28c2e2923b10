"""Find models that are on this disk: a path that was typed, the shared cache of the hub, llmrun's own cache.

Only names and file types are looked at here; no model file is opened. Something that is no regular file (a pipe, a
device) is refused before anything opens it, because opening a pipe waits for ever.
"""

import json
import os
import stat
from pathlib import Path

from llmrun.errors import ModelFileError, ModelNotFoundError, UsageError
from llmrun.models.hub import cache as hub_cache
from llmrun.models.hub.choice import choose_gguf, gguf_sets, hugging_face_files
from llmrun.models.types import ModelFile
from llmrun.values import value

__all__ = ["Found", "find_in_hub_cache", "find_path", "folder_files", "found_in_snapshot"]

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
MAX_INDEX_BYTES = 64 << 20


@value
class Found:
    """Files of a model on disk.

    Attributes:
        path: The file to load, or the folder of a Hugging Face model.
        files: Every file.
        source: `path`, `huggingface-cache` or `llmrun-cache`.
    """

    path: Path
    files: tuple[ModelFile, ...]
    source: str


def find_path(name: str) -> Found:
    """Return the model at a path.

    Raises:
        ModelNotFoundError: Nothing is there.
        ModelFileError: What is there cannot be a model.
        UsageError: A folder has several models.
    """
    path = Path(name).expanduser()
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ModelNotFoundError(f"there is no file or folder {name}", fix=_neighbours(path)) from error
    except OSError as error:
        raise ModelFileError(f"{name} cannot be looked at: {error.strerror or error}") from error
    if stat.S_ISDIR(mode):
        return _find_in_folder(path, name)
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise ModelFileError(
                f"{name} is {kind}, and a model must be a regular file: it is read in several places at once",
                fix="copy it to a file first",
            )
    return _of_paths(_with_parts(path), "path")


def find_in_hub_cache(repository: str, revision: str | None, tag: str | None) -> Found | None:
    """Return a model of the shared cache, or None when it is not there as a whole.

    Without a revision, what `main` meant last time comes first, then any other commit, the newest first.
    """
    folder = hub_cache.repository_folder(repository)
    commit = hub_cache.cached_commit(repository, revision or "main")
    snapshots = [hub_cache.snapshot_folder(repository, commit)] if commit else []
    if revision is None:
        try:
            others = sorted((folder / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        except OSError:
            others = []
        snapshots += [path for path in others if path not in snapshots]
    for snapshot in snapshots:
        found = found_in_snapshot(snapshot, tag, repository)
        if found:
            return found
    return None


def found_in_snapshot(snapshot: Path, tag: str | None, repository: str) -> Found | None:
    """Return what `tag` means among the complete files of one snapshot, or None."""
    files = hub_cache.snapshot_files(snapshot)
    names = list(files)
    if tag is None and not gguf_sets(names):
        whole = hugging_face_files(names)
        if not whole or not _has_all_shards(snapshot, whole):
            return None
        return Found(path=snapshot, files=_described([files[name] for name in whole]), source="huggingface-cache")
    try:
        chosen = choose_gguf(names, tag, repository)
    except (ModelNotFoundError, ModelFileError):  # not here, or not all parts
        return None
    return _of_paths([files[name] for name in chosen.files], "huggingface-cache")


def folder_files(folder: Path) -> tuple[ModelFile, ...]:
    """Return the files of a model in Hugging Face format."""
    names = _regular_files(folder)
    whole = hugging_face_files(names) or tuple(names)
    return _described([folder / name for name in whole])


def _find_in_folder(folder: Path, name: str) -> Found:
    try:
        names = _regular_files(folder)
    except OSError as error:
        raise ModelFileError(f"the folder {name} cannot be read: {error.strerror or error}") from error
    sets = gguf_sets(names)
    if len(sets) > 1:
        listed = ", ".join(entry.name for entry in sets[:12])
        raise UsageError(
            f"the folder {name} has {len(sets)} models: {listed}", fix=f"name one of them: {folder / sets[0].name}"
        )
    if sets:
        chosen = choose_gguf(names, sets[0].name, name)
        return _of_paths([folder / part for part in chosen.files], "path")
    if "config.json" in names:
        return Found(path=folder, files=folder_files(folder), source="path")
    raise ModelFileError(
        f"the folder {name} has no model: no GGUF file, no config.json with safetensors",
        fix="name a model file, or the folder that holds one",
    )


def _with_parts(path: Path) -> list[Path]:
    """Return the parts of a split file, in order, when `path` is one of them."""
    (single, *_), folder = gguf_sets([path.name]) or (None,), path.parent
    if single is None or (len(single.files) == 1 and not single.missing and "-of-" not in path.name):
        return [path]
    chosen = choose_gguf(_regular_files(folder), path.name, str(folder))
    return [folder / part for part in chosen.files]


def _of_paths(paths: list[Path], source: str) -> Found:
    return Found(path=paths[0], files=_described(paths), source=source)


def _described(paths: list[Path]) -> tuple[ModelFile, ...]:
    return tuple(
        ModelFile(path=path, size_bytes=path.stat().st_size, sha256=hub_cache.recorded_sha256(path)) for path in paths
    )


def _regular_files(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


def _has_all_shards(folder: Path, names: tuple[str, ...]) -> bool:
    index = folder / "model.safetensors.index.json"
    if index.name not in names or index.stat().st_size > MAX_INDEX_BYTES:
        return index.name not in names
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return shards <= set(names)


def _neighbours(path: Path) -> str | None:
    """Name the models in the folder where the missing file was looked for."""
    try:
        sets = gguf_sets(_regular_files(path.parent))
    except (OSError, ValueError):
        return None
    return f"the folder has {', '.join(entry.name for entry in sets[:5])}" if sets else None
