"""The cache folder of the Hugging Face hub that many tools share: where it is, what is in it, how a file is added.

The layout is looked at directly, because importing `huggingface_hub` costs more than the whole look-up:

    models--ORG--REPO/refs/REVISION          the commit that a branch or tag meant last time
    models--ORG--REPO/snapshots/COMMIT/FILE  a relative link to the blob
    models--ORG--REPO/blobs/ETAG             the bytes; the name is their sha256 (or git's sha1 for small files)
    .locks/models--ORG--REPO/ETAG.lock       held while a blob is written

Every name that comes from a server passes `checked_*` before it touches the disk.
Source: the cache documentation of huggingface_hub, and `huggingface_hub.file_download` 2.4.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from llmrun.errors import SecurityError

__all__ = [
    "blob_path",
    "cached_commit",
    "checked_commit",
    "checked_etag",
    "checked_file_path",
    "checked_revision",
    "hub_cache_folder",
    "link_snapshot",
    "lock_path",
    "recorded_sha256",
    "repository_folder",
    "snapshot_files",
    "snapshot_folder",
    "write_ref",
]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
_SEGMENT = re.compile(r"[A-Za-z0-9_+@=(),\[\] ~.-]{1,200}")
_TAG_FILE = "CACHEDIR.TAG"
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache and can be fetched again.\n"


def hub_cache_folder() -> Path:
    """Return the shared cache folder, by the environment variables that huggingface_hub honours, in its order."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        value = os.environ.get(name)
        if value:
            return Path(os.path.expandvars(value)).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def checked_commit(commit: str) -> str:
    """Return `commit` if it is a full commit hash; anything else from a server is refused."""
    return _checked(_COMMIT, commit, "commit")


def checked_etag(etag: str) -> str:
    """Return the bare value of an ETag header if it is a sha1 or sha256 in hex."""
    return _checked(_ETAG, etag.removeprefix("W/").strip('"'), "ETag")


def checked_file_path(path: str) -> str:
    """Return a path inside a repository if every segment is an ordinary file name."""
    segments = path.split("/")
    ordinary = all(_SEGMENT.fullmatch(part) and part.strip(". ") for part in segments)
    if not ordinary or len(path) > 400:
        raise SecurityError(f"refused: the server names a file {path[:80]!r}, which is no ordinary file name")
    return path


def checked_revision(revision: str) -> str:
    """Return a branch, tag or commit if it can be a file name below `refs`."""
    if not all(_SEGMENT.fullmatch(part) and part.strip(". ") for part in revision.split("/")):
        raise SecurityError(f"refused: {revision[:80]!r} is no ordinary name of a branch, tag or commit")
    return revision


def repository_folder(repository: str) -> Path:
    """Return the folder of one model repository in the shared cache; it need not exist."""
    checked = _checked(_REPOSITORY, repository, "repository")
    return hub_cache_folder() / "--".join(["models", *checked.split("/")])


def cached_commit(repository: str, revision: str) -> str | None:
    """Return the commit that `revision` meant when it was last asked for, or None."""
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        text = (repository_folder(repository) / "refs" / checked_revision(revision)).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def snapshot_folder(repository: str, commit: str) -> Path:
    """Return the folder that shows the files of one commit."""
    return repository_folder(repository) / "snapshots" / checked_commit(commit)


def snapshot_files(folder: Path) -> dict[str, Path]:
    """Return the complete files of a snapshot by their path inside the repository, sorted."""
    return dict(sorted((path.relative_to(folder).as_posix(), path) for path in _walk(folder)))


def recorded_sha256(path: Path) -> str | None:
    """Return the sha256 that the cache records for a file (the name of the blob it points to), or None."""
    try:
        name = path.readlink().name
    except OSError:
        return None
    return name if len(name) == 64 and _ETAG.fullmatch(name) else None


def blob_path(repository: str, etag: str) -> Path:
    """Return where the bytes with this ETag belong."""
    return repository_folder(repository) / "blobs" / checked_etag(etag)


def lock_path(repository: str, etag: str) -> Path:
    """Return the lock that huggingface_hub takes, too, while it writes this blob."""
    folder = repository_folder(repository)
    return folder.parent / ".locks" / folder.name / f"{checked_etag(etag)}.lock"


def link_snapshot(repository: str, commit: str, file_path: str, etag: str) -> Path:
    """Make the blob visible as `file_path` of the commit, and return that path.

    Where links cannot be made, the file itself moves there, as huggingface_hub does it.
    """
    blob = blob_path(repository, etag)
    pointer = snapshot_folder(repository, commit).joinpath(*checked_file_path(file_path).split("/"))
    pointer.parent.mkdir(parents=True, exist_ok=True)
    _tag_as_cache(hub_cache_folder())
    if pointer.is_file():
        return pointer
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except FileExistsError:
        return pointer
    except OSError:
        blob.replace(pointer)
    return pointer


def write_ref(repository: str, revision: str, commit: str) -> None:
    """Record which commit a branch or tag means now; a commit needs no record."""
    if revision == commit:
        return
    ref = repository_folder(repository) / "refs" / checked_revision(revision)
    ref.parent.mkdir(parents=True, exist_ok=True)
    draft = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    draft.write_text(checked_commit(commit), "ascii")
    draft.replace(ref)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                yield path


def _tag_as_cache(folder: Path) -> None:
    tag = folder / _TAG_FILE
    if not tag.exists():
        tag.write_text(_TAG_TEXT, "ascii")


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise SecurityError(f"refused: {text[:80]!r} is no ordinary {what}, and it would become a file name")
    return text
