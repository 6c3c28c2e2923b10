"""Read what pip, CMake and Ninja print: how far they are, and why they failed.

The words are those of the tools, so this is the one place that knows them.
"""

import re
from collections.abc import Callable, Sequence

from llmrun.errors import LlmrunError, NetworkError, NotEnoughMemoryError, NoUsableEngineError, StorageError
from llmrun.progress import Progress

__all__ = ["BuildMonitor", "explain_failure"]

_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\] ")
_PERCENT = re.compile(r"^\s*\[ *(\d+)%\] ")
_BYTES = re.compile(r"^\s*Progress (\d+) of (\d+)$")
_DOWNLOADING = re.compile(r"^\s*Downloading (?:\S*/)?([^/\s]+\.(?:tar\.gz|whl|zip))")
_REASON = re.compile(r"[\w ]*(?:resolution|not known|refused|unreachable|reset by peer|timed out|verify failed)")
_SMALL_BYTES = 4 << 20
# (what a line contains, the phase that it starts)
_PHASES = (
    ("Installing build dependencies", "fetching the build tools"),
    ("Configuring CMake", "configuring"),
    ("Installing project into wheel", "packaging"),
)
_NETWORK_SIGNS = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "Failed to establish a new connection",
    "Network is unreachable",
    "Connection refused",
    "Connection reset",
    "Read timed out",
    "NewConnectionError",
    "Could not fetch URL",
    "ProxyError",
    "certificate verify failed",
    "HTTP error 4",
    "HTTP error 5",
    "Max retries exceeded",
    "Failed to fetch",
)


class BuildMonitor:
    """Turns lines of output into progress: fetch, configure, compile, package."""

    def __init__(self, progress: Progress, subject: str) -> None:
        """Begin with nothing.

        Args:
            progress: Who shows it.
            subject: What is being compiled, for the task's name.
        """
        self._progress = progress
        self._compiling = f"compiling {subject}"
        self._task = ""
        self._total: int | None = None
        self._done = 0

    def feed(self, line: str) -> None:
        """Look at one line."""
        if match := _STEP.match(line):
            self._reach(self._compiling, int(match[1]), int(match[2]), steps=True)
        elif match := _PERCENT.match(line):
            self._reach(self._compiling, int(match[1]), 100, steps=True)
        elif match := _BYTES.match(line):
            if int(match[2]) >= _SMALL_BYTES and self._task.startswith("fetching"):
                self._reach(self._task, int(match[1]), int(match[2]), steps=False)
        elif match := _DOWNLOADING.match(line):
            self._begin(f"fetching {match[1]}", None)
        else:
            for sign, phase in _PHASES:
                if sign in line and phase != self._task:
                    self._begin(phase, None)

    def finish(self) -> None:
        """End the last phase."""
        if self._task:
            self._progress.finish()
            self._task = ""

    def _begin(self, task: str, total: int | None, *, steps: bool = False) -> None:
        self.finish()
        self._task, self._total, self._done = task, total, 0
        self._progress.begin(task, total, "steps" if steps else "bytes")

    def _reach(self, task: str, done: int, total: int, *, steps: bool) -> None:
        if task != self._task or total != self._total:
            self._begin(task, total, steps=steps)
        if done > self._done:
            self._progress.advance(done - self._done)
            self._done = done


def explain_failure(subject: str, lines: Sequence[str], log: str, compiler_fix: str) -> LlmrunError:
    """Return the error that says why an installation failed, from the last lines of its output.

    Args:
        subject: What was being installed, for the sentence.
        lines: The last lines of output.
        log: Where all of it is.
        compiler_fix: The command that installs a compiler.
    """
    for recognise in _RECOGNISERS:
        error = recognise(subject, lines, compiler_fix)
        if error is not None:
            return error
    cause = _find(lines, ("fatal error:", "error:", "CMake Error", "ERROR:")) or (lines[-1].strip() if lines else "")
    return NoUsableEngineError(
        f"{subject} could not be installed: {cause or 'the installer failed without a message'}",
        fix=f"all of the output is in {log}",
    )


def _disk_full(subject: str, lines: Sequence[str], _fix: str) -> LlmrunError | None:
    if not _find(lines, ("No space left on device", "[Errno 28]", "Disk quota exceeded")):
        return None
    return StorageError(
        f"installing {subject}: the disk is full", fix="free 2 GiB, or set LLMRUN_CACHE_DIR to a folder on another disk"
    )


def _out_of_memory(subject: str, lines: Sequence[str], _fix: str) -> LlmrunError | None:
    signs = ("Killed signal terminated program", "LLVM ERROR: out of memory", "virtual memory exhausted", "bad_alloc")
    if not _find(lines, signs):
        return None
    return NotEnoughMemoryError(
        f"compiling {subject} ran out of memory", fix="compile fewer files at once: llmrun install llama-cpp --jobs 1"
    )


def _no_compiler(subject: str, lines: Sequence[str], fix: str) -> LlmrunError | None:
    signs = (
        "CMAKE_CXX_COMPILER not set",
        "CMAKE_C_COMPILER not set",
        "No CMAKE_CXX_COMPILER could be found",
        "No CMAKE_C_COMPILER could be found",
        "is not able to compile a simple test program",
        "is not a full path to an existing compiler",
    )
    line = _find(lines, signs)
    return NoUsableEngineError(f"{subject} needs a C++ compiler that works: {line}", fix=fix) if line else None


def _managed(subject: str, lines: Sequence[str], _fix: str) -> LlmrunError | None:
    if not _find(lines, ("externally-managed-environment", "externally managed")):
        return None
    return NoUsableEngineError(
        f"{subject} cannot be installed into this Python, which the system manages",
        fix="install llmrun into a virtual environment: python3 -m venv ENV && ENV/bin/pip install llmrun",
    )


def _network(subject: str, lines: Sequence[str], _fix: str) -> LlmrunError | None:
    line = _find(lines, _NETWORK_SIGNS)
    if line is None:
        return None
    reason = _REASON.search(line)  # pip wraps it into the names of four Python classes
    return NetworkError(
        f"fetching {subject} from the package index failed: {reason[0] if reason else line}",
        fix="check the connection and pip's configuration (`pip config list`)",
    )


def _not_in_index(subject: str, lines: Sequence[str], _fix: str) -> LlmrunError | None:
    line = _find(
        lines, ("No matching distribution found", "No solution found", "was not found in the package registry")
    )
    if line is None:
        return None
    return NoUsableEngineError(
        f"the configured package index does not have {subject} for this Python and platform: "
        f"{line.removeprefix('ERROR: ')}",
        fix="see `pip config list` for the index in use",
    )


_RECOGNISERS: tuple[Callable[[str, Sequence[str], str], LlmrunError | None], ...] = (
    _disk_full,
    _out_of_memory,
    _no_compiler,
    _managed,
    _network,
    _not_in_index,
)


def _find(lines: Sequence[str], signs: Sequence[str]) -> str | None:
    """Return the first line that contains one of the signs; earlier signs win."""
    for sign in signs:
        for line in lines:
            if sign in line:
                return line.strip()
    return None
