"""Run a trial of an engine in a process of its own, and put how it ended into words.

A build for another processor, or by a compiler with a fault, is installed without complaint and dies of a signal at its
first batch; a package whose companions are missing raises when it is imported. Either is the child's end and nobody
else's: it has its own session, the environment that workers get, files instead of pipes for what it prints (so that a
grandchild that outlives it keeps nobody waiting), a time limit, and whatever it started is ended with it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmrun.engines.worker_process import worker_environment

__all__ = ["LIFELINE", "Verification", "run_trial"]

LIFELINE = "LLMRUN_LIFELINE"
"""Names the descriptor that the child reads: when it ends, so has the parent."""
_TIMEOUT_SECONDS = 120.0
_GRACE_SECONDS = 5.0  # for processes that have something to put away, such as shared memory
_EVIDENCE_BYTES = 64 << 10
_CAUSE_LENGTH = 300
_SIGNAL_MEANINGS = {
    signal.SIGILL: "it uses an instruction that this CPU does not have, or has set up wrongly",
    signal.SIGSEGV: "it read memory that is not its own",
    signal.SIGABRT: "it gave up on a failed check",
    signal.SIGFPE: "it divided by zero",
    signal.SIGKILL: "it was killed, most likely because memory ran out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the trial showed.

    Attributes:
        ok: One batch and some single tokens were decoded, with finite results.
        cause: Why not, as the end of a sentence; empty when ok.
        crashed: The process died of a signal or hung, so a safer build may work.
        features: What was found to work: instruction sets, or number types and devices.
        gpu_offload: Whether the build can use a GPU; None when it cannot be told.
    """

    ok: bool
    cause: str = ""
    crashed: bool = False
    features: str = ""
    gpu_offload: bool | None = False


def run_trial(
    module: str,
    prepare: Callable[[Path], Sequence[str]],
    *,
    environment: Mapping[str, str] = MappingProxyType({}),
    python: str = sys.executable,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Verification:
    """Run a module as a child process and return what it found, or how it died.

    Args:
        module: What the child runs; it prints one JSON object as its last line (see `reporting`).
        prepare: Gets a folder that is removed afterwards, puts files for the child there, and returns its arguments.
        environment: What the child gets besides the environment of a worker.
        python: The interpreter of the child.
        timeout_seconds: After this long the engine counts as hanging.
    """
    with tempfile.TemporaryDirectory(prefix="llmrun-trial-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        # -P: a folder named like a package in the current directory must not be imported instead.
        command = [python, "-P", "-m", module, *prepare(folder)]
        try:
            code = _run(command, folder, environment, timeout_seconds)
        except OSError as error:
            return Verification(ok=False, cause=f"the child process could not be started: {error}")
        if code is None:
            return Verification(ok=False, crashed=True, cause=f"one batch was not done within {timeout_seconds:g} s")
        return _judge(code, _read_end(folder / "stdout"), _read_end(folder / "stderr"))


def _run(command: list[str], folder: Path, environment: Mapping[str, str], timeout_seconds: float) -> int | None:
    """Return the exit status, or None when the time was up; nothing that it started is left."""
    read_end, write_end = os.pipe()
    try:
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**worker_environment(), **environment, LIFELINE: str(read_end)},
                pass_fds=(read_end,),
                start_new_session=True,
            )
        try:
            return process.wait(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_group(process)
    finally:
        os.close(read_end)
        os.close(write_end)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of the child's process group: first politely, so that shared memory is given back."""
    deadline = time.monotonic() + _GRACE_SECONDS
    number = signal.SIGTERM
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
        while True:
            process.poll()
            os.killpg(process.pid, 0)  # raises when nobody is left
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
    process.wait()


def _read_end(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _EVIDENCE_BYTES))
        return file.read().decode("utf-8", "replace")


def _judge(code: int, stdout: str, stderr: str) -> Verification:
    if code < 0:
        try:
            number = signal.Signals(-code)
        except ValueError:
            return Verification(ok=False, crashed=True, cause=f"it died of signal {-code}")
        meaning = _SIGNAL_MEANINGS.get(number, "")
        return Verification(
            ok=False, crashed=True, cause=f"it died of {number.name}" + (f": {meaning}" if meaning else "")
        )
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "no message")
    if code != 0:
        return Verification(ok=False, cause=last[:_CAUSE_LENGTH])
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        report = json.loads(stdout.splitlines()[-1])
        offload = report["gpu_offload"]
        return Verification(
            ok=True, features=str(report["features"]), gpu_offload=None if offload is None else bool(offload)
        )
    return Verification(ok=False, cause=f"the child process answered {stdout[-200:]!r}")
