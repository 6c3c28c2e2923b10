"""The folder in which warm workers are found: one socket and one description for each, readable by nobody else.

It is `$XDG_RUNTIME_DIR/llmrun`, or `/tmp/llmrun-UID` where there is no such variable, or one that does not belong to
this user (as after `su`). It is never below a home folder, which may be shared by several machines. With
LLMRUN_CACHE_DIR set, or a runtime folder too deep for the name of a socket, a name derived from it is added.

Others may be able to write where this folder is made, so it is used only if it is a real folder that belongs to this
user and is closed to everybody else. Everything here is light: it is asked before `run` is even parsed.
"""

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmrun.engines.warm.place import runtime_place
from llmrun.errors import LlmrunError, SecurityError, StorageError

__all__ = [
    "find_names",
    "lock_folder",
    "process_born",
    "runtime_folder",
    "runtime_path",
    "seems_loaded",
]

_LOCK_SECONDS = 2.0


def runtime_path() -> Path:
    """Return the folder's path, whether it exists or not."""
    return Path(runtime_place())


def runtime_folder() -> Path:
    """Return the folder, created with mode 0700 if it is not there.

    Raises:
        SecurityError: It is not this user's alone.
        StorageError: It cannot be created.
    """
    folder = runtime_path()
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(
            f"cannot create the folder {folder} for warm workers: {error.strerror}",
            fix="set XDG_RUNTIME_DIR to a folder of yours with mode 0700",
        ) from error
    _check(folder)
    return folder


@contextlib.contextmanager
def lock_folder() -> Iterator[None]:
    """Keep other commands from leaving a worker behind; given up on after a while, since nothing breaks without it.

    Raises:
        SecurityError: The folder is not this user's alone.
        StorageError: It cannot be created.
    """
    import fcntl

    descriptor = os.open(runtime_folder(), os.O_RDONLY)  # the lock ends with it, or with this process
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def find_names() -> list[tuple[Path, int]]:
    """Return, for every worker that left anything here, where its description is or was, and its process id.

    Raises:
        SecurityError: The folder is not this user's alone.
    """
    folder = runtime_path()
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths: this is asked at every start
    except FileNotFoundError:
        return []
    except OSError:
        names = []
    _check(folder)
    found = {}
    for name in names:
        stem = name.partition(".")[0]
        mark, _, pid = stem.rpartition("-")
        if mark and pid.isdecimal():
            found[folder / f"{stem}.json"] = int(pid)
    return list(found.items())


def seems_loaded(words: Sequence[str]) -> bool:
    """Whether an idle warm worker was loaded under one of these names. Never raises: the command says what is wrong.

    It is a guess by a glance at the descriptions: they are not parsed, and nothing is compared but the name.
    """
    names = [f'"reference": {json.dumps(word)}'.encode() for word in words]
    try:
        found = [path.read_bytes() for path, pid in find_names() if process_born(pid) is not None]
    except (LlmrunError, OSError):
        return False
    return any(b'"busy": false' in text and any(name in text for name in names) for text in found)


def process_born(pid: int) -> int | None:
    """Return when a process was started, in the system's own measure, or None if it is not running any more.

    With its process id this names a process for good: ids are used again.
    """
    if sys.platform == "darwin":
        return _born_by_psutil(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - Path would cost more than the read
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # proc_pid_stat(5): the third field is the state (Z: dead, and not collected yet), the 22nd the start in ticks.
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _born_by_psutil(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 1000)
    except psutil.Error:
        return None


def _check(folder: Path) -> None:
    """Refuse a folder through which somebody else could pose as a worker, or reach one."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise StorageError(f"cannot read the folder {folder} of warm workers: {error.strerror}") from error
    fix = f"remove {folder}, or set XDG_RUNTIME_DIR to a folder of yours"
    if not stat.S_ISDIR(found.st_mode):
        raise SecurityError(f"{folder} should be a folder for warm workers and is something else", fix=fix)
    if found.st_uid != os.geteuid():
        raise SecurityError(f"the folder {folder} for warm workers belongs to user {found.st_uid}", fix=fix)
    if found.st_mode & 0o077:
        raise SecurityError(
            f"the folder {folder} for warm workers is open to others: mode {stat.S_IMODE(found.st_mode):04o}, "
            "wanted 0700",
            fix=fix,
        )
