"""What a repository of the Hugging Face hub holds: the files of one commit with sizes and hashes, none of them fetched.

A branch or tag is resolved to a commit by the same answer that lists the files, so everything later speaks of one
commit. One request tells the sizes and hashes of all files; a hub that does not tell them is asked for each file that
is wanted. The token and the form of addresses come from huggingface_hub.
Refuses any name, commit or ETag from the server that is not of the strict form it must have.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.errors import ModelFileError, NetworkError, SecurityError
from llmrun.models.download.http import HttpError, HttpSession
from llmrun.models.hub import cache as hub_cache
from llmrun.models.hub.choice import choose_gguf, gguf_sets, hugging_face_files, is_pickle_only

__all__ = [
    "HubFile",
    "HubRepository",
    "bytes_there",
    "explained",
    "file_url",
    "hub_endpoint",
    "hub_session",
    "list_repository",
    "look_up_file",
    "wanted_files",
]

MAX_SMALL_FILE_BYTES = 256 << 20  # the hub keeps anything larger by its sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a commit. `etag` is its sha256, or git's sha1 of a small file, and names its blob in the cache."""

    path: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """One commit of a repository.

    Attributes:
        name: `ORG/NAME`.
        commit: The full hash.
        paths: Every file.
        files: Those whose size and hash the listing told, by path.
    """

    name: str
    commit: str
    paths: tuple[str, ...]
    files: Mapping[str, HubFile]


def hub_endpoint() -> str:
    """Return the address of the hub (`HF_ENDPOINT`, else the one that huggingface_hub knows)."""
    import os

    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def hub_session(*, timeout_seconds: float | None = None) -> HttpSession:
    """Open a session that sends the user's token to the hub, and to the hub only."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return HttpSession(token=token, token_origin=hub_endpoint(), timeout_seconds=timeout_seconds)


def file_url(repository: HubRepository, path: str) -> str:
    """Return the address of a file of this very commit."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository.name, path, revision=repository.commit, endpoint=hub_endpoint())


def list_repository(session: HttpSession, repository: str, revision: str, *, with_sizes: bool = False) -> HubRepository:
    """Ask which commit a revision means and what is in it.

    Args:
        session: From `hub_session`.
        repository: `ORG/NAME`.
        revision: Branch, tag or commit.
        with_sizes: Ask for sizes and hashes, too, which is more work for the hub.

    Raises:
        HttpError: The hub cannot be reached, fails or refuses.
        NetworkError: What answers is no hub.
        SecurityError: The commit or a hash is not of the form of one.
    """
    from urllib.parse import quote

    url = f"{hub_endpoint()}/api/models/{repository}/revision/{quote(revision, safe='')}"
    if with_sizes:
        url += "?blobs=true"
    with session.open(url) as reply:
        body = reply.document()
    try:
        answer: Any = json.loads(body)
        commit, siblings = str(answer["sha"]), list(answer["siblings"])
        paths = tuple(str(entry["rfilename"]) for entry in siblings)
        files = [_described(entry) for entry in siblings]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetworkError(f"{hub_endpoint()} does not answer like a model hub for {repository}") from error
    return HubRepository(
        name=repository,
        commit=hub_cache.checked_commit(commit),
        paths=paths,
        files={file.path: file for file in files if file},
    )


def _described(entry: Mapping[str, Any]) -> HubFile | None:
    """Read one row of a listing; None when it does not tell size and hash. Source: RepoSibling in huggingface_hub."""
    size, lfs = entry.get("size"), entry.get("lfs")
    etag = lfs.get("sha256") if lfs else entry.get("blobId")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(etag, str):
        return None
    if len(etag) != (64 if lfs else 40):
        return None
    return HubFile(path=str(entry["rfilename"]), size_bytes=size, etag=hub_cache.checked_etag(etag))


def wanted_files(found: HubRepository, tag: str | None) -> tuple[tuple[str, ...], bool]:
    """Return the files that `tag` means, and whether they are a model in Hugging Face format.

    Raises:
        ModelNotFoundError: Nothing matches the tag.
        UsageError: Several files match it equally well.
        ModelFileError: There is no model that llmrun knows, or a part of it is missing.
        SecurityError: The only weights are pickles.
    """
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


def look_up_file(session: HttpSession, found: HubRepository, path: str) -> HubFile:
    """Ask for a file's ETag and size, which the hub tells before it redirects to where the bytes are.

    Raises:
        HttpError: The hub cannot be reached, fails or refuses.
        NetworkError: It does not tell what is needed to verify the file.
        SecurityError: It speaks of another commit, or the ETag is not of the form of one.
    """
    with session.open(file_url(found, path), method="HEAD", stop_at="x-linked-etag") as reply:
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
    return HubFile(path=path, size_bytes=int(size), etag=etag)


def bytes_there(target: Path) -> int:
    """Return how many bytes of a blob are on this disk, finished or not."""
    for path in (target, target.with_name(target.name + ".part")):
        try:
            return path.stat().st_size
        except OSError:
            continue
    return 0


@contextmanager
def explained(repository: str, revision: str) -> Iterator[None]:
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
