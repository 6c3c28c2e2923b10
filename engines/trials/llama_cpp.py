"""Try llama.cpp on a tiny GGUF whose matrices are of every type that has kernels of its own."""

import sys

from llmrun.engines.install.verify import verify_build
from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.trials.process import Verification
from llmrun.hardware.types import Machine

__all__ = ["cannot_try", "try_engine"]

_TIMEOUT_SECONDS = 120.0


def cannot_try(facts: EngineFacts, machine: Machine) -> str | None:  # noqa: ARG001 - the same for every engine
    """Return why a trial would show nothing here: it always shows something."""
    return None


def try_engine(
    facts: EngineFacts,  # noqa: ARG001 - the same for every engine
    machine: Machine,
    *,
    python: str = sys.executable,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Verification:
    """Decode a batch and some tokens with the installed build."""
    return verify_build(None, machine.cpu.threads, python=python, timeout_seconds=timeout_seconds)
