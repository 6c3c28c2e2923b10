"""Try a build of llama.cpp in a child process before anybody relies on it.

A build for the wrong CPU, or by a compiler with a fault, does not fail: it dies of a signal at the first batch. So the
first batch is decoded here, in a process that may die.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llmrun.engines.install.probe_model import write_probe_model
from llmrun.engines.trials.process import Verification, run_trial

__all__ = ["Verification", "kernel_formats", "verify_build"]

_CHILD = "llmrun.engines.install.verify_child"
_TIMEOUT_SECONDS = 120.0


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

    def prepare(scratch: Path) -> Sequence[str]:
        model = scratch / "probe.gguf"
        write_probe_model(model)
        return (str(folder) if folder else "", str(model), str(threads))

    return run_trial(_CHILD, prepare, python=python, timeout_seconds=timeout_seconds)


def kernel_formats(features: str) -> str:
    """Return the formats that llmrun's own kernels take in a build, as its features name them, or an empty string."""
    found = re.search(r"\bLLMRUN = ([\w,]+)", features)
    return found[1].replace(",", " ") if found else ""
