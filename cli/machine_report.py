"""What `which-backend` shows without a model: the machine, its engines, and what installing another one would bring."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from llmrun.cli.layout import gib, pairs, wrap
from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.selection.prospects import Prospect
from llmrun.engines.types import EngineName
from llmrun.hardware.profile import machine_to_json
from llmrun.hardware.types import Accelerator, Machine, Toolchain

__all__ = ["engine_document", "machine_document", "machine_text"]

_VERSION = 1
_TOOLKITS = {
    Accelerator.CUDA: "CUDA toolkit",
    Accelerator.ROCM: "ROCm",
    Accelerator.METAL: "Metal",
    Accelerator.VULKAN: "Vulkan SDK",
}
_SHOWN_FLAGS = (
    *("avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "sve"),
)


def machine_text(
    machine: Machine,
    toolchain: Toolchain | None,
    engines: Mapping[EngineName, EngineFacts],
    prospects: Iterable[Prospect],
) -> str:
    """Return the machine, its engines, and what each is good for here; `toolchain` None: of a machine elsewhere."""
    rows = [*_machine_rows(machine)]
    if toolchain is not None:
        rows.append(("toolchain", _toolchain_line(toolchain)))
    rows.append(("", ""))
    known = {prospect.engine: prospect for prospect in prospects}
    for engine, facts in engines.items():
        rows.append((engine, _engine_line(facts)))
        if engine in known:
            rows += [(" ", line) for line in _prospect_lines(known[engine])]
    text = pairs(rows)
    if machine.problems:
        text += "\n" + "".join(wrap(f"could not read: {problem}") for problem in machine.problems)
    return text


def machine_document(
    machine: Machine,
    toolchain: Toolchain | None,
    engines: Mapping[EngineName, EngineFacts],
    prospects: Iterable[Prospect],
) -> dict[str, Any]:
    """Return what `which-backend --json` prints without a model."""
    return {
        "version": _VERSION,
        "machine": machine_to_json(machine),
        "toolchain": None if toolchain is None else asdict(toolchain),
        "engines": [engine_document(facts) for facts in engines.values()],
        "prospects": [asdict(prospect) for prospect in prospects],
    }


def engine_document(facts: EngineFacts) -> dict[str, Any]:
    """Return the facts about an engine, without its lists of architectures."""
    document = asdict(facts)
    del document["last_versions"]
    document["architectures"] = None if facts.architectures is None else len(facts.architectures)
    document["build"] = dict(facts.build)
    return document


def _machine_rows(machine: Machine) -> Iterable[tuple[str, str]]:
    cpu, memory = machine.cpu, machine.memory
    where = [machine.container] if machine.container else []
    where += ["WSL"] if machine.wsl else []
    yield "system", " ".join([machine.system, cpu.architecture, *(f"({name})" for name in where)])
    yield "processor", f"{cpu.name or 'unknown'}, {cpu.threads} of {cpu.logical_cores} threads to use"
    yield "instructions", _instructions(cpu.isa_flags)
    limit = f", limited by {memory.limit_source}" if memory.limit_source else ""
    yield "memory", f"{gib(memory.available_bytes)} of {gib(memory.total_bytes)} available{limit}"
    if machine.memory_bandwidth_bytes_per_second:
        yield "bandwidth", f"{machine.memory_bandwidth_bytes_per_second / 1e9:.1f} GB/s"
    if machine.disk_free_bytes is not None:
        yield "disk", f"{gib(machine.disk_free_bytes)} free for models"
    for gpu in machine.gpus:
        free = "unknown" if gpu.free_bytes is None else gib(gpu.free_bytes)
        total = "unknown" if gpu.total_bytes is None else gib(gpu.total_bytes)
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        driver = f", driver {gpu.driver}" if gpu.driver else ""
        cuda = f", CUDA {gpu.cuda_version}" if gpu.cuda_version else ""
        yield "GPU", f"{gpu.name}, {free} of {total} free{capability}{driver}{cuda}"
    if not machine.gpus:
        yield "GPU", "none found"


def _toolchain_line(toolchain: Toolchain) -> str:
    found = [f"{compiler.family} {'.'.join(map(str, compiler.version))}" for compiler in toolchain.compilers]
    for accelerator, _ in toolchain.accelerators:
        version = f" {toolchain.cuda_version}" if accelerator is Accelerator.CUDA and toolchain.cuda_version else ""
        found.append(f"{_TOOLKITS[accelerator]}{version}")
    return ", ".join(found) or "no C++ compiler found"


def _instructions(flags: frozenset[str]) -> str:
    return " ".join(flag for flag in _SHOWN_FLAGS if flag in flags) or "no vector instructions that engines use"


def _engine_line(facts: EngineFacts) -> str:
    if not facts.installed:
        return "not installed"
    parts = [facts.version or "unknown version"]
    parts += [value for name, value in facts.build if name in ("recipe", "compiler")]
    parts.append("GPU build" if facts.gpu_support else "CPU build" if facts.gpu_support is False else "")
    untried = f"not tried: {facts.health_detail}" if facts.health_detail else "not tried"
    health = {"healthy": "tried: works", "crashes": f"crashes: {facts.health_detail}"}.get(facts.health, untried)
    return ", ".join(part for part in (*parts, health) if part)


def _prospect_lines(prospect: Prospect) -> Iterable[str]:
    yield f"{prospect.purpose}; {prospect.example}" if prospect.example else prospect.purpose
    if prospect.advice and prospect.command:
        yield f"{prospect.advice}: {prospect.command}"
    elif prospect.advice:
        yield prospect.advice
