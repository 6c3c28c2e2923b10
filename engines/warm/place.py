"""Where warm workers are found, as a text. Light: this is asked before anything else is done."""

import os
import stat
import sys
from zlib import crc32

__all__ = ["runtime_place", "unix_sockets"]

_LONGEST_BASE = 60
"""A base, /llmrun-xxxxxxxx, and KEY-PID.sock stay below 104 bytes, the least that any system's sun_path has."""


def unix_sockets() -> bool:
    """Whether warm workers can exist here: Linux and macOS."""
    return sys.platform.startswith("linux") or sys.platform == "darwin"


def runtime_place() -> str:
    """Return the path of the folder, whether it exists or not."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    marks = [os.environ.get("LLMRUN_CACHE_DIR", "")]
    name = "llmrun"
    if not _is_ours(base) or len(os.fsencode(base)) > _LONGEST_BASE:
        marks.append(base if _is_ours(base) else "")
        base, name = "/tmp", f"llmrun-{os.geteuid()}"  # noqa: S108 - what is found there is checked before it is used
    if any(marks):
        name += f"-{crc32(os.fsencode(chr(0).join(marks))):08x}"
    return os.path.join(base, name)  # noqa: PTH118 - pathlib takes five milliseconds


def _is_ours(base: str) -> bool:
    if not base.startswith("/"):
        return False
    try:
        found = os.stat(base)  # noqa: PTH116 - as above
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
