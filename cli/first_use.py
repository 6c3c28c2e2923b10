"""The first use of a model that is not here: say what will be downloaded, and ask before it is.

Somebody at a terminal is asked once, unless `--yes` was given; a script never is, and with `--quiet` nothing is said.
A model that is on this disk never comes here.
"""

import os
import sys
from typing import TYPE_CHECKING

from llmrun.cli.output import report_line

if TYPE_CHECKING:
    from llmrun.engines.download import BeforeDownload, Download

__all__ = ["before_download"]


def before_download(*, yes: bool, quiet: bool) -> "BeforeDownload":
    """Return what `prepare` is to call before it fetches a model.

    Args:
        yes: Do not ask.
        quiet: Say nothing and do not ask.
    """

    def announce(download: "Download") -> None:
        if quiet:
            return
        for line in _describe(download):
            report_line(line)
        if not yes and download.fits_disk and _is_somebody_there() and not _agreed():
            from llmrun.errors import ModelNotFoundError

            raise ModelNotFoundError(
                f"{download.reference} is not on this disk, and was not downloaded",
                fix=f"llmrun models pull {download.reference}, or name a model that is here: llmrun models list",
            )

    return announce


def _describe(download: "Download") -> list[str]:
    from llmrun.cli.progress import format_size

    free = f"{format_size(download.disk_free_bytes)} free"
    if download.size_bytes is None:
        size, verdict = "of a size that is known once the package index was asked", free
    else:
        size = ("" if download.size_is_exact else "about ") + format_size(download.size_bytes)
        verdict = f"{free}: {'it fits' if download.fits_disk else 'it does NOT fit'}"
    lines = [
        f"llmrun: {download.reference} is not on this disk; to download:",
        f"  what:   {download.label}, {size}",
        f"  from:   {download.source}",
        f"  to:     {download.folder} ({verdict})",
    ]
    if download.memory is not None:
        lines.append(f"  memory: {_memory(download)}")
    return lines


def _memory(download: "Download") -> str:
    from llmrun.cli.progress import format_size

    plan = download.memory
    assert plan is not None
    on_gpu = (
        f", {format_size(plan.gpu_bytes)} on the GPU of {format_size(plan.gpu_free_bytes)} free"
        if plan.gpu_bytes and plan.gpu_free_bytes is not None
        else ""
    )
    return (
        f"{format_size(plan.main_bytes)} of {format_size(plan.main_free_bytes)} free{on_gpu}, on {plan.engine} with a "
        f"context of {plan.context_length:,} tokens: {'it fits' if plan.fits else 'it does NOT fit'}"
    )


def _is_somebody_there() -> bool:
    try:
        return os.isatty(0) and os.isatty(2)
    except OSError:
        return False


def _agreed() -> bool:
    """Ask; Enter is yes, the end of input is no."""
    os.write(2, b"Download it? [Y/n] ")
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        os.write(2, b"\n")
        raise
    if not answer.endswith("\n"):
        os.write(2, b"\n")
    return answer.strip().lower() in ("y", "yes") or answer == "\n"
