"""Know a model of the hub before it is downloaded: its facts, its size, and what else the repository offers.

The headers are read by range requests, by the readers that read files on this disk, so every check and every fact is
the same. Two or three requests and the first megabytes answer whether a model of a hundred gigabytes would run here.
Nothing is written to the disk. Weights inside Python packages are not looked into: they must be fetched first.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmrun.errors import ModelFileError, ModelNotFoundError, SecurityError
from llmrun.models.download.http import HttpSession, retried
from llmrun.models.gguf.header import read_remote_gguf_header
from llmrun.models.gguf.info import describe_gguf
from llmrun.models.hub import cache as hub_cache
from llmrun.models.hub.choice import gguf_sets
from llmrun.models.hub.listing import (
    HubFile,
    HubRepository,
    bytes_there,
    explained,
    hub_session,
    list_repository,
    look_up_file,
    wanted_files,
)
from llmrun.models.hub.remote_files import RemoteFolder
from llmrun.models.resolver.sources import HubSource, Source, describe, family_of, first_that_answers, sources_of
from llmrun.models.types import ModelFile, ModelInfo, ModelRef, RefKind
from llmrun.progress import SILENT, Progress

__all__ = ["Alternative", "RemoteModel", "look_up", "look_up_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another model of the same repository.

    Attributes:
        tag: What to write after the colon to mean it.
        quantization: As its name states it, or None.
        size_bytes: Of all its files.
    """

    tag: str
    quantization: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """A model that has been looked up and not been downloaded.

    Attributes:
        ref: What the user typed.
        label: What it turned out to be: `ORG/REPO:FILE`, or `ORG/REPO` for a model in Hugging Face format.
        info: The facts of its headers; `info.files` are paths `ORG/REPO/FILE`.
        download_bytes: Of all files that make the model.
        missing_bytes: Of those, how many are not on this disk.
        alternatives: What else the repository has in GGUF, the smallest first.
        source: Where it is.
        listing: The commit that was looked at, so that a pull means the same one and need not ask again.
    """

    ref: ModelRef
    label: str
    info: ModelInfo
    download_bytes: int
    missing_bytes: int
    alternatives: tuple[Alternative, ...] = ()
    source: HubSource
    listing: HubRepository = field(repr=False)


def look_up(ref: ModelRef, *, progress: Progress = SILENT, timeout_seconds: float | None = None) -> RemoteModel:
    """Read what a reference means on the hub; of a catalogue name, the best candidate.

    Args:
        ref: A reference whose files are not on this disk.
        progress: Shows what arrives.
        timeout_seconds: How long a server may take to answer, and be silent, and a failure is final then; None: the
            usual time, and another try.

    Raises:
        ModelNotFoundError: There is no such thing, it cannot be looked into from afar, or the network may not be used.
        ModelFileError: It is no model, is damaged, or is of an unknown kind.
        UsageError: The reference fits several files.
        NetworkError: The hub cannot be reached, fails, refuses, or does not send what it announced.
        SecurityError: The server names things in a form that is not safe, or only pickles are there.
    """
    from llmrun.models.resolver.resolve import refuse_offline

    if ref.kind is RefKind.PATH:
        raise ModelNotFoundError(f"there is no file or folder {ref.name}")
    sources = sources_of(ref)
    refuse_offline(ref, sources)

    def look(source: Source) -> RemoteModel:
        return look_up_source(source, ref=ref, progress=progress, timeout_seconds=timeout_seconds)

    return first_that_answers(ref, sources, look, SILENT)


def look_up_source(
    source: Source,
    *,
    ref: ModelRef | None = None,
    progress: Progress = SILENT,
    timeout_seconds: float | None = None,
) -> RemoteModel:
    """Read what is at one place. Arguments and errors are those of `look_up`; without a reference, the place is it."""
    if not isinstance(source, HubSource):
        raise ModelNotFoundError(
            f"{describe(source)} must be fetched before anything is known of it",
            fix=f"llmrun models pull {ref.text if ref else describe(source)}",
        )
    hub_cache.repository_folder(source.repository)
    ref = ref or _reference(source)
    revision, patient = source.revision or "main", timeout_seconds is None
    with (
        hub_session(timeout_seconds=timeout_seconds) as session,
        explained(source.repository, revision),
        _shown(f"reading the headers of {source.repository}", progress),
    ):
        found = _listed(session, source.repository, revision, progress if patient else None)
        wanted, is_folder = wanted_files(found, source.tag)
        files = {name: _sized(session, found, name) for name in wanted}
        folder = RemoteFolder(session, found, files, progress=progress, patient=patient)
        info = _read_info(folder, wanted, is_folder=is_folder, family=family_of(ref, wanted[0]))
    download_bytes = sum(file.size_bytes for file in files.values())
    return RemoteModel(
        ref=ref,
        label=_label(source, None if is_folder else wanted[0]),
        info=replace(info, files=_model_files(files, source.repository)),
        download_bytes=download_bytes,
        missing_bytes=download_bytes - sum(_there(found, file) for file in files.values()),
        alternatives=() if is_folder else _alternatives(found, wanted),
        source=source,
        listing=found,
    )


def _label(source: HubSource, tag: str | None) -> str:
    return source.repository + (f"@{source.revision}" if source.revision else "") + (f":{tag}" if tag else "")


def _reference(source: HubSource) -> ModelRef:
    return ModelRef(
        text=f"hf:{_label(source, source.tag)}",
        kind=RefKind.HUB,
        name=source.repository,
        tag=source.tag,
        revision=source.revision,
    )


@contextmanager
def _shown(task: str, progress: Progress) -> Iterator[None]:
    progress.begin(task, None)
    try:
        yield
    finally:
        progress.finish()


def _listed(session: HttpSession, repository: str, revision: str, progress: Progress | None) -> HubRepository:
    def action() -> HubRepository:
        return list_repository(session, repository, revision, with_sizes=True)

    return action() if progress is None else retried(action, progress)


def _sized(session: HttpSession, found: HubRepository, name: str) -> HubFile:
    hub_cache.checked_file_path(name)
    return found.files.get(name) or look_up_file(session, found, name)


def _read_info(folder: RemoteFolder, wanted: tuple[str, ...], *, is_folder: bool, family: str | None) -> ModelInfo:
    try:
        if is_folder:
            from llmrun.models.huggingface.info import read_folder_info

            return read_folder_info(folder, family=family)
        return describe_gguf(read_remote_gguf_header(folder, wanted[0]), family=family)
    except ModelFileError as error:
        if not (error.fix or "").startswith("download"):
            raise
        # It was not downloaded, and it would not be better afterwards.
        other = "another repository of this model"
        raise ModelFileError(
            error.message, fix=f"take {other if is_folder else 'another file, or ' + other}"
        ) from error


def _model_files(files: Mapping[str, HubFile], repository: str) -> tuple[ModelFile, ...]:
    """Return every file of the model, also those that no header was read of, with the sha256 where there is one."""
    return tuple(
        ModelFile(
            path=Path(repository, name),
            size_bytes=file.size_bytes,
            sha256=file.etag if len(file.etag) == 64 else None,
        )
        for name, file in files.items()
    )


def _there(found: HubRepository, file: HubFile) -> int:
    place = hub_cache.snapshot_folder(found.name, found.commit).joinpath(*file.path.split("/"))
    if place.is_file():  # where links cannot be made, the file itself is here and no blob
        return file.size_bytes
    return min(bytes_there(hub_cache.blob_path(found.name, file.etag)), file.size_bytes)


def _is_sized(found: HubRepository, name: str) -> bool:
    """Tell whether a file can be offered: an ordinary name, which is shown to the user, and a size."""
    try:
        return hub_cache.checked_file_path(name) in found.files
    except SecurityError:
        return False


def _alternatives(found: HubRepository, chosen: tuple[str, ...]) -> tuple[Alternative, ...]:
    """Return the other models whose parts and sizes are all known."""
    sets = gguf_sets(found.paths)
    named = Counter(entry.quantization for entry in sets)
    others = [
        Alternative(
            tag=entry.quantization if entry.quantization and named[entry.quantization] == 1 else entry.name,
            quantization=entry.quantization,
            size_bytes=sum(found.files[name].size_bytes for name in entry.files),
        )
        for entry in sets
        if entry.files != chosen and not entry.missing and all(_is_sized(found, name) for name in entry.files)
    ]
    return tuple(sorted(others, key=lambda other: (other.size_bytes, other.tag)))
