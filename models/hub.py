"""Fetch models from the Hugging Face hub into the cache folder that other tools share.

A branch or tag is resolved to a commit once, and every file is fetched by that commit. The token, the endpoint and the
form of addresses come from huggingface_hub; the transfer is llmrun's own, because the library starts over after an
interruption, does not verify what arrives, and reports a server's failure as the user's connection. Repositories on Xet
storage are read through the same plain addresses, which the hub bridges.
Refuses any name, commit or ETag from the server that is not of the strict form it must have.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.errors import ModelFileError, NetworkError, SecurityError
from llmrun.models import hub_cache
from llmrun.models.download import Digest, Transfer, download, require_space
from llmrun.models.download_http import HttpError, HttpSession, retried
from llmrun.models.hub_choice import choose_gguf, gguf_sets, hugging_face_files, is_pickle_only
from llmrun.models.store_errors import storage_errors
from llmrun.progress import Progress

__all__ = ["HubPull", "HubRepository", "hub_endpoint", "pull_from_hub"]

MAX_SMALL_FILE_BYTES = 256 << 20  # the hub keeps anything larger by its sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """One commit of a repository and the paths in it."""

    name: str
    commit: str
    paths: tuple[str, ...]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _RemoteFile:
    path: str
    url: str
    etag: str
    size_bytes: int


def hub_endpoint() -> str:
    """Return the address of the hub (`HF_ENDPOINT`, else the one that huggingface_hub knows)."""
    import os

    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def pull_from_hub(repository: str, revision: str, tag: str | None, progress: Progress) -> HubPull:
    """Fetch what `tag` means in a repository; what is on disk already is not fetched again.

    Args:
        repository: `ORG/NAME`.
        revision: Branch, tag or commit.
        tag: File name or quantization; None for the default choice.
        progress: Shows the transfers.

    Raises:
        NetworkError: The hub cannot be reached, fails, refuses, or sends damaged data.
        ModelNotFoundError: The repository has no such file.
        SecurityError: The server names things in a form that is not safe, or only pickles are there.
        StorageError: The disk is full or the cache cannot be written.
    """
    hub_cache.repository_folder(repository)
    with _session() as session:
        with _explained(repository, revision):
            found = retried(lambda: _list(session, repository, revision), progress)
        wanted, is_folder = _wanted(found, tag)
        with _explained(repository, revision):
            files = _pull_files(session, found, wanted, progress)
    with storage_errors(hub_cache.repository_folder(repository)):
        hub_cache.write_ref(repository, revision, found.commit)
    return HubPull(folder=hub_cache.snapshot_folder(repository, found.commit), files=files, is_folder=is_folder)


def _session() -> HttpSession:
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return HttpSession(token=token, token_origin=hub_endpoint())


def _list(session: HttpSession, repository: str, revision: str) -> HubRepository:
    from urllib.parse import quote

    url = f"{hub_endpoint()}/api/models/{repository}/revision/{quote(revision, safe='')}"
    with session.open(url) as reply:
        body = reply.document()
    try:
        answer: Any = json.loads(body)
        commit, siblings = answer["sha"], answer["siblings"]
        paths = tuple(str(entry["rfilename"]) for entry in siblings)
    except (ValueError, KeyError, TypeError) as error:
        raise NetworkError(f"{hub_endpoint()} does not answer like a model hub for {repository}") from error
    return HubRepository(name=repository, commit=hub_cache.checked_commit(str(commit)), paths=paths)


def _wanted(found: HubRepository, tag: str | None) -> tuple[tuple[str, ...], bool]:
    if tag is None and not gguf_sets(found.paths):
        folder = hugging_face_files(found.paths)
        if folder:
            return folder, True
        if is_pickle_only(found.paths):
            raise SecurityError(
                f"refused: {found.name} has its weights only as pickles, which can run code when they are loaded",
                fix="look for a conversion to GGUF or safetensors",
            )
        raise ModelFileError(
            f"{found.name} has no model that llmrun knows: no GGUF file, no safetensors with config.json"
        )
    return choose_gguf(found.paths, tag, found.name).files, False


def _pull_files(
    session: HttpSession, found: HubRepository, wanted: tuple[str, ...], progress: Progress
) -> tuple[Path, ...]:
    snapshot = hub_cache.snapshot_folder(found.name, found.commit)
    local = {path: snapshot.joinpath(*hub_cache.checked_file_path(path).split("/")) for path in wanted}
    missing = [path for path, place in local.items() if not place.is_file()]
    remote = [retried(lambda path=path: _look_up(session, found, path), progress) for path in missing]  # type: ignore[misc]
    targets = [hub_cache.blob_path(found.name, file.etag) for file in remote]
    pairs = list(zip(remote, targets, strict=True))
    needed = sum(file.size_bytes - _there(target) for file, target in pairs)
    if needed:
        require_space(hub_cache.repository_folder(found.name), needed, found.name)
    for file, target in pairs:
        transfer = Transfer(
            url=file.url,
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


def _look_up(session: HttpSession, found: HubRepository, path: str) -> _RemoteFile:
    """Ask for a file's ETag and size, which the hub tells before it redirects to where the bytes are."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(found.name, path, revision=found.commit, endpoint=hub_endpoint())
    with session.open(url, method="HEAD", stop_at="x-linked-etag") as reply:
        linked = reply.header("x-linked-etag")
        etag = hub_cache.checked_etag(linked or reply.headers.get("etag", ""))
        size = reply.header("x-linked-size") if linked else reply.headers.get("content-length")
        commit = reply.header("x-repo-commit")
    if commit != found.commit:
        raise SecurityError(
            f"refused: asked for commit {found.commit} of {found.name}, and got {(commit or 'none')[:80]!r}"
        )
    if not size or not size.isascii() or not size.isdigit():
        raise NetworkError(f"the hub does not say how large {path} is")
    if len(etag) == 40 and int(size) > MAX_SMALL_FILE_BYTES:
        raise NetworkError(f"the hub gives no sha256 for {path}, so that it cannot be verified")
    return _RemoteFile(path=path, url=url, etag=etag, size_bytes=int(size))


def _there(target: Path) -> int:
    for path in (target, target.with_name(target.name + ".part")):
        try:
            return path.stat().st_size
        except OSError:
            continue
    return 0


@contextmanager
def _explained(repository: str, revision: str) -> Iterator[None]:
    """Say what a refusal of the hub means for this repository."""
    try:
        yield
    except HttpError as error:
        page = f"{hub_endpoint()}/{repository}"
        if error.status == 401 and error.code != "GatedRepo":
            raise NetworkError(
                f"{repository}: {error.message}; there is no such repository, or it needs authorization",
                fix=f"check the name; if it is private or gated, set HF_TOKEN and accept its licence at {page}",
            ) from error
        if error.status in (401, 403):
            raise NetworkError(
                f"{repository} needs authorization: {error.message}",
                fix=f"set HF_TOKEN to a token of yours, and accept the licence at {page}",
            ) from error
        if error.status == 404:
            raise NetworkError(
                f"{repository}: {error.message}; there is no such repository, revision ({revision}) or file",
                fix=f"look at {page}",
            ) from error
        raise
