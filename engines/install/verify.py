"""Try a build of llama.cpp in a child process before anybody relies on it.

A build for the wrong CPU, or by a compiler with a fault, does not fail: it dies of a signal at the first batch. So the
first batch is decoded here, in a process that may die.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmrun.engines.install.probe_model import write_probe_model

__all__ = ["Verification", "verify_build"]

_TIMEOUT_SECONDS = 120.0
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
        crashed: The process died of a signal, so a safer build may work.
        features: The instruction sets that the library says it was built with.
        gpu_offload: Whether the build can use a GPU.
    """

    ok: bool
    cause: str = ""
    crashed: bool = False
    features: str = ""
    gpu_offload: bool = False


def verify_build(
    folder: Path | None,
    threads: int,
    *,
    python: str = sys.executable,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Verification:
    """Decode with the build and say what happened.

    Args:
        folder: The unpacked wheel, or None for the installed package.
        threads: Threads to compute with.
        python: The interpreter of the child.
        timeout_seconds: After this long the build counts as hanging.
    """
    with tempfile.TemporaryDirectory(prefix="llmrun-verify-") as scratch:
        model = Path(scratch, "probe.gguf")
        write_probe_model(model)
        module = "llmrun.engines.install.verify_child"
        # -P: a folder named like a package in the current directory must not be imported instead.
        command = [python, "-P", "-m", module, str(folder) if folder else "", str(model), str(threads)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_seconds,
                encoding="utf-8",
                errors="replace",
                cwd=scratch,
            )
        except subprocess.TimeoutExpired:
            return Verification(ok=False, crashed=True, cause=f"one batch was not done within {timeout_seconds:g} s")
        except OSError as error:
            return Verification(ok=False, cause=f"the child process could not be started: {error}")
    return _judge(done.returncode, done.stdout, done.stderr)


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
        return Verification(ok=False, cause=last)
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        report = json.loads(stdout.splitlines()[-1])
        return Verification(ok=True, features=str(report["features"]), gpu_offload=bool(report["gpu_offload"]))
    return Verification(ok=False, cause=f"the child process answered {stdout[-200:]!r}")
