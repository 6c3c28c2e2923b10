"""Try PyTorch with transformers: the model is made by the child, of random weights, so nothing is read or fetched."""

import sys

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.trials.process import Verification, run_trial
from llmrun.hardware.types import Machine

__all__ = ["cannot_try", "try_engine"]

_CHILD = "llmrun.engines.trials.pytorch_child"
_TIMEOUT_SECONDS = 120.0
_ENVIRONMENT = {"TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_OFFLINE": "1"}


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
    """Run a prompt and a token on the processor, and on the GPUs that torch sees."""
    return run_trial(
        _CHILD,
        lambda _folder: (str(machine.cpu.threads),),
        environment=_ENVIRONMENT,
        python=python,
        timeout_seconds=timeout_seconds,
    )
