"""Fetch models from the Hugging Face hub into the cache folder that other tools share.

A branch or tag is resolved to a commit once, and every file is fetched by that commit. The transfer is llmrun's own,
because huggingface_hub starts over after an interruption, does not verify what arrives, and reports a server's failure
as the user's connection. Repositories on Xet storage are read through the same plain addresses, which the hub bridges.
"""

from dataclasses import dataclass
from pathlib import Path

from llmrun.models.download.http import HttpSession, retried
from llmrun.models.download.transfer import Digest, Transfer, download, require_space
from llmrun.models.hub import cache as hub_cache
from llmrun.models.hub.listing import (
    HubRepository,
    bytes_there,
    explained,
    file_url,
    hub_endpoint,
    hub_session,
    list_repository,
    look_up_file,
    wanted_files,
)
from llmrun.models.store.errors import storage_errors
from llmrun.progress import Progress

__all__ = ["HubPull", "HubRepository", "hub_endpoint", "pull_from_hub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPull:
    """What was asked for is now below `folder`, the snapshot of its commit.

    Attributes:
        folder: The snapshot folder.
        files: The files that make the model, in order.
        is_folder: A model in Hugging Face format, which is loaded as a folder.
    """

    folder: Path
    files: tuple[Path, ...]
    is_folder: bool


def pull_from_hub(
    repository: str, revision: str, tag: str | None, progress: Progress, *, found: HubRepository | None = None
) -> HubPull:
    """Fetch what `tag` means in a repository; what is on disk already is not fetched again.

    Args:
        repository: `ORG/NAME`.
        revision: Branch, tag or commit.
        tag: File name or quantization; None for the default choice.
        progress: Shows the transfers.
        found: What the revision turned out to be a moment ago; None: ask the hub.

    Raises:
        NetworkError: The hub cannot be reached, fails, refuses, or sends damaged data.
        ModelNotFoundError: The repository has no such file.
        SecurityError: The server names things in a form that is not safe, or only pickles are there.
        StorageError: The disk is full or the cache cannot be written.
    """
    hub_cache.repository_folder(repository)
    with hub_session() as session:
        with explained(repository, revision):
            commit = found or retried(lambda: list_repository(session, repository, revision), progress)
        wanted, is_folder = wanted_files(commit, tag)
        with explained(repository, revision):
            files = _pull_files(session, commit, wanted, progress)
    with storage_errors(hub_cache.repository_folder(repository)):
        hub_cache.write_ref(repository, revision, commit.commit)
    return HubPull(folder=hub_cache.snapshot_folder(repository, commit.commit), files=files, is_folder=is_folder)


def _pull_files(
    session: HttpSession, found: HubRepository, wanted: tuple[str, ...], progress: Progress
) -> tuple[Path, ...]:
    snapshot = hub_cache.snapshot_folder(found.name, found.commit)
    local = {path: snapshot.joinpath(*hub_cache.checked_file_path(path).split("/")) for path in wanted}
    missing = [path for path, place in local.items() if not place.is_file()]
    remote = [retried(lambda path=path: look_up_file(session, found, path), progress) for path in missing]  # type: ignore[misc]
    targets = [hub_cache.blob_path(found.name, file.etag) for file in remote]
    pairs = list(zip(remote, targets, strict=True))
    needed = sum(file.size_bytes - bytes_there(target) for file, target in pairs)
    if needed:
        require_space(hub_cache.repository_folder(found.name), needed, found.name)
    for file, target in pairs:
        transfer = Transfer(
            url=file_url(found, file.path),
            target=target,
            lock=hub_cache.lock_path(found.name, file.etag),
            title=file.path,
            size_bytes=file.size_bytes,
            digest=Digest("sha256" if len(file.etag) == 64 else "git-sha1", file.etag),
            mode=0o666,
        )
        download(transfer, session, progress)
        with storage_errors(snapshot):
            hub_cache.link_snapshot(found.name, found.commit, file.path, file.etag)
    return tuple(local.values())
