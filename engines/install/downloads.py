"""Ask pip what an installation would fetch, before it is fetched: names, versions, and how many bytes.

pip's report names the address of every file; the size is asked of the server, which costs one small request per file.
"""

import json
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llmrun.engines.install.build_output import explain_failure
from llmrun.engines.install.commands import Installer

__all__ = ["Download", "ask_downloads", "ask_requirements"]

_TIMEOUT_SECONDS = 600.0
_SIZE_TIMEOUT_SECONDS = 10.0
_REPORT = ("--dry-run", "--quiet", "--report", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file that would be fetched; `size_bytes` is None when the server does not say."""

    name: str
    version: str
    size_bytes: int | None


def ask_downloads(installer: Installer, requirements: Sequence[str]) -> tuple[Download, ...]:
    """Return what pip would fetch and install for these requirements; what is installed already is not in it.

    Raises:
        NoUsableEngineError: The index has no such package for this machine.
        NetworkError: The index could not be reached.
    """
    items = _report(installer, requirements)
    with ThreadPoolExecutor(max_workers=8) as pool:
        sizes = list(pool.map(_ask_size, [str(item["download_info"]["url"]) for item in items]))
    return tuple(
        Download(name=str(item["metadata"]["name"]), version=str(item["metadata"]["version"]), size_bytes=size)
        for item, size in zip(items, sizes, strict=True)
    )


def ask_requirements(installer: Installer, package: str) -> tuple[str, ...]:
    """Return what the metadata of a package asks for.

    Raises:
        NoUsableEngineError: The index has no such package for this machine.
        NetworkError: The index could not be reached.
    """
    items = _report(installer, ("--no-deps", "--ignore-installed", package))
    return tuple(str(requirement) for item in items for requirement in item["metadata"].get("requires_dist", ()))


def _report(installer: Installer, arguments: Sequence[str]) -> list[dict[str, Any]]:
    subject = " ".join(argument for argument in arguments if not argument.startswith("-"))
    command = [*installer.pip, "install", *_REPORT, *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode == 0:
            return list(json.loads(done.stdout)["install"])
        lines = done.stderr.splitlines()
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        lines = [f"ERROR: pip did not answer: {error}"]
    raise explain_failure(subject, lines, "the output of pip", "")


def _ask_size(url: str) -> int | None:
    parts = urlsplit(url)
    if parts.scheme == "file":
        try:
            return Path(unquote(parts.path)).stat().st_size
        except OSError:
            return None
    import httpx

    try:
        response = httpx.head(url, follow_redirects=True, timeout=_SIZE_TIMEOUT_SECONDS)
        length = response.headers.get("content-length", "") if response.is_success else ""
    except httpx.HTTPError:
        return None
    return int(length) if length.isdigit() else None
