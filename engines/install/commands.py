"""Find the installer of this environment, and run its commands: every line goes to a log file and to whoever watches.

The environment is the one that llmrun itself runs in, because its worker process imports the engine from there.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from llmrun.engines.install.types import Command
from llmrun.errors import NoUsableEngineError, StorageError

__all__ = ["Installer", "Run", "find_installer", "run_command"]

_TAIL_LINES = 400
_WATCHER = 'read -r _; kill -s TERM -- "-$1"; sleep 2; kill -s KILL -- "-$1"'
_RAW_PROGRESS_SINCE = (24, 1)  # the first pip whose --progress-bar raw prints bytes in a pipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """How to call pip, or uv in an environment without pip.

    Attributes:
        pip: Command line up to `wheel` or `download`.
        install: Command line up to the requirements of an installation.
        progress: Options that make pip say how far a download is, when its output is read by a program.
    """

    pip: tuple[str, ...]
    install: tuple[str, ...]
    progress: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a command ended, and its last lines."""

    code: int
    tail: tuple[str, ...]


def find_installer(
    *,
    python: str = sys.executable,
    has_pip: bool | None = None,
    which: Callable[[str], str | None] = shutil.which,
) -> Installer:
    """Return how to install into the environment of `python`.

    Raises:
        NoUsableEngineError: There is neither pip in it nor uv on PATH.
    """
    version = _pip_version() if has_pip is None else ((99,) if has_pip else None)
    if version is not None:
        pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input")
        progress = ("--progress-bar", "raw") if version >= _RAW_PROGRESS_SINCE else ()
        return Installer(pip=pip, install=(*pip, "install"), progress=progress)
    uv = which("uv")
    if uv:
        ephemeral = (uv, "run", "--quiet", "--no-project", "--python", python, "--with", "pip", "python", "-m", "pip")
        return Installer(pip=(*ephemeral, "--no-input"), install=(uv, "pip", "install", "--python", python))
    raise NoUsableEngineError(
        f"an engine is installed with pip, and the environment of {python} has none (uv was not found either)",
        fix=f"{python} -m ensurepip",
    )


def _pip_version() -> tuple[int, ...] | None:
    from importlib import metadata

    try:
        parts = metadata.version("pip").split(".")
    except metadata.PackageNotFoundError:
        return None
    return tuple(int(part) for part in parts[:2] if part.isdigit())


def run_command(
    command: Command,
    log: Path,
    watch: Callable[[str], None],
    *,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run a command to its end; its output goes line by line to the log file and to `watch`.

    Raises:
        NoUsableEngineError: The program cannot be started.
        StorageError: The log file cannot be written.
    """
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {command.render()}\n")
            file.flush()
            run = _stream(command, file, watch, environment)
            file.write(f"exit status {run.code}\n")
    except OSError as error:
        raise StorageError(f"the log {log} cannot be written: {error.strerror or error}") from error
    return run


def _stream(command: Command, log: TextIO, watch: Callable[[str], None], environment: Mapping[str, str] | None) -> Run:
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=command.environment(environment),
            process_group=0,
        )
    except OSError as error:
        raise NoUsableEngineError(f"{command.argv[0]} cannot be started: {error.strerror or error}") from error
    with process, _ended_with_this_process(process.pid):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                tail.append(line.rstrip("\n"))
                watch(tail[-1])
            code = process.wait()
        except BaseException:
            _end_group(process)
            raise
    return Run(code=code, tail=tuple(tail))


@contextlib.contextmanager
def _ended_with_this_process(group: int) -> Iterator[None]:
    """Have a process group ended when this process is, even by SIGKILL.

    pip and the compilers below it do not notice that nobody reads any more. A shell waits for the end of a pipe that
    only this process can write to.
    """
    command = ["/bin/sh", "-c", _WATCHER, "llmrun-watcher", str(group)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, process_group=0) as watcher:
        try:
            yield
        finally:
            watcher.kill()


def _end_group(process: subprocess.Popen[str]) -> None:
    """End pip and everything below it."""
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
