"""What is about to be downloaded, known before it is: what, how large, from where to where, and whether it fits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.models.download.transfer import RESERVE_BYTES
from llmrun.models.resolver.sources import HubSource, Source, describe, sources_of
from llmrun.models.store.errors import free_bytes
from llmrun.models.types import ModelRef

if TYPE_CHECKING:
    from llmrun.engines.memory.types import MemoryPlan
    from llmrun.engines.selection.judgement import Judgement
    from llmrun.models.hub.remote import RemoteModel

__all__ = ["BeforeDownload", "Download", "describe_download", "describe_remote", "describe_unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A model that is not on this disk and is about to be fetched.

    Attributes:
        reference: What the user typed.
        label: What exactly it means.
        source: Where it comes from.
        folder: Where it will be kept.
        size_bytes: What has to be fetched, or None where nobody knows before it is asked for.
        size_is_exact: The server said so; otherwise it is the catalogue's estimate.
        disk_free_bytes: What may still be written there.
        memory: How the chosen engine would take its memory, or None where that is not known yet.
    """

    reference: str
    label: str
    source: str
    folder: Path
    size_bytes: int | None
    size_is_exact: bool
    disk_free_bytes: int
    memory: "MemoryPlan | None"

    @property
    def fits_disk(self) -> bool:
        """Whether it can be written there, as far as that is known."""
        return self.size_bytes is None or self.size_bytes + RESERVE_BYTES <= self.disk_free_bytes


BeforeDownload = Callable[[Download], None]
"""Called before a model is fetched; raises an `LlmrunError` to have it left where it is."""


def describe_download(judged: "Judgement") -> Download:
    """Return what is known of a model that was judged and is to be fetched."""
    subject = judged.subject
    remote = subject.remote
    source = sources_of(subject.pull)[0] if remote is None else remote.source
    folder = _folder_of(source)
    forecast = None if judged.chosen is None else judged.forecasts.get(judged.chosen)
    return Download(
        reference=subject.ref.text,
        label=subject.label,
        source=describe(source),
        folder=folder,
        size_bytes=subject.facts.weights_bytes if remote is None else remote.missing_bytes,
        size_is_exact=remote is not None,
        disk_free_bytes=free_bytes(folder),
        memory=None if forecast is None else forecast.memory,
    )


def describe_remote(remote: "RemoteModel") -> Download:
    """Return what is known of a model that was looked up and is not judged: one that only guesses ahead."""
    folder = _folder_of(remote.source)
    return Download(
        reference=remote.ref.text,
        label=remote.label,
        source=describe(remote.source),
        folder=folder,
        size_bytes=remote.missing_bytes,
        size_is_exact=True,
        disk_free_bytes=free_bytes(folder),
        memory=None,
    )


def describe_unknown(ref: ModelRef) -> Download:
    """Return what is known of a model that must be fetched before anything is known of it."""
    source = sources_of(ref)[0]
    folder = _folder_of(source)
    return Download(
        reference=ref.text,
        label=ref.text,
        source=describe(source),
        folder=folder,
        size_bytes=None,
        size_is_exact=False,
        disk_free_bytes=free_bytes(folder),
        memory=None,
    )


def _folder_of(source: Source) -> Path:
    if isinstance(source, HubSource):
        from llmrun.models.hub.cache import repository_folder

        return repository_folder(source.repository)
    from llmrun.folders import cache_folder

    return cache_folder("models", "pypi")
