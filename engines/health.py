"""Whether an installed engine works on this machine, found out by trying it once and kept from then on.

A native library that was built for another processor, or by a compiler with a fault, is installed without complaint
and dies at its first batch. So, for each new engine, version, build and machine, a child process decodes one batch of a
tiny model with it. A death that the same build would die again is kept as `crashes`; one that may have other causes
(killed for memory, too slow, a system library that is missing today) is reported and tried again next time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmrun.engines.architectures import ask_architectures
from llmrun.engines.facts import CRASHES, HEALTHY, UNKNOWN, EngineFacts, with_architectures
from llmrun.engines.kept import forget, keep, read_kept
from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine

if TYPE_CHECKING:
    from llmrun.engines.install.verify import Verification

__all__ = ["check_health", "crash_fix", "kept_health"]

_FOLDER = "health"
_LASTING = ("SIGILL", "SIGSEGV", "SIGABRT", "SIGFPE", "SIGBUS", "SIGTRAP")
_NOT_TRIED = "was not tried: this version of llmrun does not drive it"


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
    verify: "Callable[[None, int], Verification] | None" = None,
) -> EngineFacts:
    """Return the facts with the engine's health, trying it now if nothing is kept.

    An engine that llmrun does not drive is not tried, but asked which architectures it supports.

    Args:
        engine: Which engine.
        facts: What `probe_engines` said of it.
        recheck: Forget what is kept, and try it again.
        machine: This machine, if it was probed already.
        verify: Stands in for the trial in tests.
    """
    if not facts.installed:
        return facts
    if engine is not EngineName.LLAMA_CPP:
        asked = with_architectures(facts, ask_architectures(engine, facts.version, again=recheck))
        return replace(asked, health=UNKNOWN, health_detail=_NOT_TRIED)
    if machine is None:
        from llmrun.hardware.machine import probe_machine

        machine = probe_machine()
    key = _key(facts, machine)
    if recheck:
        forget(_FOLDER, key)
    else:
        known = kept_health(facts, machine)
        if known.health != UNKNOWN:
            return known
    return _try(facts, key, machine.cpu.threads, verify)


def crash_fix(engine: EngineName) -> str:
    """Return the command that gets a build which works here."""
    return f"llmrun install {engine.value}" + (" --rebuild" if engine is EngineName.LLAMA_CPP else "")


def _try(
    facts: EngineFacts, key: str, threads: int, verify: "Callable[[None, int], Verification] | None"
) -> EngineFacts:
    if verify is None:
        from llmrun.engines.install.verify import verify_build

        verify = verify_build
    trial = verify(None, threads)
    found = {
        "health": HEALTHY if trial.ok else CRASHES,
        "detail": trial.features if trial.ok else trial.cause,
        "gpu_offload": trial.gpu_offload if trial.ok else None,
    }
    if trial.ok or any(signal in trial.cause for signal in _LASTING):
        keep(_FOLDER, key, found)
    return _apply(facts, found)


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
    lines = (
        f"{facts.engine.value} {facts.version}",
        facts.stamp,
        *(f"{name}={value}" for name, value in facts.build),
        f"{machine.system} {machine.cpu.architecture} {machine.cpu.name}",
        " ".join(sorted(machine.cpu.isa_flags)),
    )
    return "\n".join(lines)
