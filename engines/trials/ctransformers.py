"""Try ctransformers on two tiny files of the formats before GGUF, which are written for it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.trials.process import Verification, run_trial
from llmrun.hardware.types import Machine

__all__ = ["cannot_try", "try_engine"]

_CHILD = "llmrun.engines.trials.ctransformers_child"
_TIMEOUT_SECONDS = 60.0


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
    """Decode a batch and some tokens with the library that ctransformers picks for this processor."""

    def prepare(folder: Path) -> Sequence[str]:
        from llmrun.engines.trials.legacy_model import legacy_gpt2, legacy_llama

        arguments = [str(machine.cpu.threads)]
        for kind, data in (("llama", legacy_llama()), ("gpt2", legacy_gpt2())):
            path = folder / f"{kind}.bin"
            path.write_bytes(data)
            arguments.append(f"{kind}={path}")
        return arguments

    return run_trial(_CHILD, prepare, python=python, timeout_seconds=timeout_seconds)
