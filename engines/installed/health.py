"""Whether an installed engine works on this machine, found out by trying it once and kept from then on.

A native library that was built for another processor, or by a compiler with a fault, is installed without complaint
and dies at its first batch. So, for each new engine, version, build and machine, a child process decodes one batch of a
tiny model with it (`llmrun.engines.trials`). A death that the same build would die again is kept as `crashes`; one that
may have other causes (killed for memory, too slow, a package that is missing today) is reported and tried again next
time. An engine that needs a device to show anything, and has none, stays `unknown`, with the reason.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from llmrun.engines.installed.architectures import ask_architectures, kept_architectures
from llmrun.engines.installed.facts import CRASHES, HEALTHY, UNKNOWN, EngineFacts, with_architectures
from llmrun.engines.installed.kept import forget, keep, read_kept
from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine
from llmrun.progress import SILENT, Progress

if TYPE_CHECKING:
    from llmrun.engines.trials.process import Verification

__all__ = ["ASKED_ENGINES", "check_health", "crash_fix", "kept_health"]

_FOLDER = "health"
_LASTING = ("SIGILL", "SIGSEGV", "SIGABRT", "SIGFPE", "SIGBUS", "SIGTRAP")
_ON_GPUS = frozenset({EngineName.PYTORCH, EngineName.VLLM})  # their trials use the GPUs that are there
ASKED_ENGINES = frozenset({EngineName.PYTORCH, EngineName.VLLM})
"""The engines that are asked which architectures they support; for the others a table answers."""
# What gets a build for this machine when the installed one dies; other faults are mended by installing what is missing.
_REBUILDS = {
    EngineName.LLAMA_CPP: "llmrun install llama-cpp --rebuild",
    # Its wheel has libraries for common processors; compiled from its source it can do without their instructions.
    EngineName.CTRANSFORMERS: "CT_INSTRUCTIONS=basic python -m pip install --force-reinstall --no-deps "
    "--no-binary ctransformers ctransformers==0.2.27",
    EngineName.PYTORCH: "python -m pip install --force-reinstall torch==2.13.0",
}


class _Trial(Protocol):
    """What every module of `llmrun.engines.trials` that is named for an engine has."""

    def cannot_try(self, facts: EngineFacts, machine: Machine) -> str | None:
        """Return why a trial would show nothing here, or None."""

    def try_engine(self, facts: EngineFacts, machine: Machine) -> "Verification":
        """Decode something in a child process."""


def kept_health(facts: EngineFacts, machine: Machine) -> EngineFacts:
    """Return the facts with what an earlier check found, if there was one; no process is started."""
    found = read_kept(_FOLDER, _key(facts, machine))
    if not isinstance(found, dict) or found.get("health") not in (HEALTHY, CRASHES):
        return facts
    return _apply(facts, found)


def check_health(
    engine: EngineName,
    facts: EngineFacts,
    recheck: bool = False,
    *,
    machine: Machine | None = None,
    progress: Progress = SILENT,
    verify: "Callable[[None, int], Verification] | None" = None,
) -> EngineFacts:
    """Return the facts with the engine's health, trying it now if nothing is kept, and what it says it supports.

    Args:
        engine: Which engine.
        facts: What `probe_engines` said of it.
        recheck: Forget what is kept, and try it again.
        machine: This machine, if it was probed already.
        progress: Says that the engine is being tried: that takes from half a second to more than half a minute.
        verify: Stands in for the trial in tests; it gets the threads to use.
    """
    if not facts.installed:
        return facts
    if machine is None:
        from llmrun.hardware.machine import probe_machine

        machine = probe_machine()
    key = _key(facts, machine)
    if recheck:
        forget(_FOLDER, key)
    facts = _ask(engine, facts, progress, again=recheck)
    known = facts if recheck else kept_health(facts, machine)
    return known if known.health != UNKNOWN else _try(known, machine, key, progress, verify)


def crash_fix(engine: EngineName, cause: str = "") -> str:
    """Return the command that gets a build which works here, or what the installed one lacks.

    Args:
        engine: Which engine.
        cause: What the trial showed (`health_detail`).
    """
    if engine is EngineName.LLAMA_CPP or any(signal in cause for signal in _LASTING):
        return _REBUILDS.get(engine, f"llmrun install {engine.value}")
    return f"llmrun install {engine.value}"


def _ask(engine: EngineName, facts: EngineFacts, progress: Progress, *, again: bool) -> EngineFacts:
    """Return the facts with the architectures that the engine says it supports; most ask nothing, or did before."""
    if engine not in ASKED_ENGINES:
        return facts
    known = None if again else kept_architectures(engine, facts.version)
    if known is None:
        with _task(progress, f"asking {engine.value} what it supports, once"):
            known = ask_architectures(engine, facts.version, again=again)
    return with_architectures(facts, known)


def _try(
    facts: EngineFacts,
    machine: Machine,
    key: str,
    progress: Progress,
    verify: "Callable[[None, int], Verification] | None",
) -> EngineFacts:
    trial = _trial_of(facts.engine)
    refusal = trial.cannot_try(facts, machine)
    if refusal is not None:
        return replace(facts, health=UNKNOWN, health_detail=refusal)
    with _task(progress, f"trying {facts.engine.value}, once"):
        outcome = verify(None, machine.cpu.threads) if verify is not None else trial.try_engine(facts, machine)
    found = {
        "health": HEALTHY if outcome.ok else CRASHES,
        "detail": outcome.features if outcome.ok else outcome.cause,
        "gpu_offload": outcome.gpu_offload if outcome.ok else None,
    }
    if outcome.ok or any(signal in outcome.cause for signal in _LASTING):
        keep(_FOLDER, key, found)
    return _apply(facts, found)


@contextmanager
def _task(progress: Progress, name: str) -> Iterator[None]:
    progress.begin(name, None, unit="steps")
    try:
        yield
    finally:
        progress.finish()


def _trial_of(engine: EngineName) -> _Trial:
    from importlib import import_module

    return cast(_Trial, import_module(f"llmrun.engines.trials.{engine.value.replace('-', '_')}"))


def _apply(facts: EngineFacts, found: dict[str, Any]) -> EngineFacts:
    offload = found.get("gpu_offload")
    detail = found.get("detail")
    return replace(
        facts,
        health=found["health"],
        health_detail=str(detail) if detail else None,
        gpu_support=offload if facts.gpu_support is None and isinstance(offload, bool) else facts.gpu_support,
    )


def _key(facts: EngineFacts, machine: Machine) -> str:
    """Return everything on which the outcome depends; the first line names the file."""
    lines = [
        f"{facts.engine.value} {facts.version}",
        facts.stamp,
        *(f"{name}={value}" for name, value in facts.build),
        f"{machine.system} {machine.cpu.architecture} {machine.cpu.name}",
        " ".join(sorted(machine.cpu.isa_flags)),
    ]
    if facts.engine in _ON_GPUS:
        lines += [f"{gpu.name} {gpu.driver}" for gpu in machine.gpus]
    return "\n".join(lines)
