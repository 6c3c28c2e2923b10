"""What `which-backend` shows: pure functions from facts to text for 80 columns, that a pipe may carry as well."""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from llmrun.engines.facts import EngineFacts
from llmrun.engines.judgement import Judgement
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.hardware.profile import machine_to_json
from llmrun.hardware.types import Machine

__all__ = ["machine_document", "machine_text", "model_document", "model_text"]

_VERSION = 1
_WIDTH = 80
_LONGEST_LABEL = 36
_GIB = 1 << 30


def machine_text(machine: Machine, engines: Mapping[EngineName, EngineFacts]) -> str:
    """Return the machine and its engines."""
    rows = [*_machine_rows(machine), ("", "")]
    rows += [(engine, _engine_line(facts)) for engine, facts in engines.items()]
    text = _table(rows)
    if machine.problems:
        text += "\n" + "".join(_wrap(f"could not read: {problem}", "  ") for problem in machine.problems)
    if not engines[EngineName.LLAMA_CPP].installed:
        text += f"\nto run GGUF models: llmrun install {EngineName.LLAMA_CPP}\n"
    return text


def model_text(judgement: Judgement, marks: tuple[str, str] = ("✓", "✗")) -> str:
    """Return the choice in the first line, then every engine with its reasons."""
    if judgement.chosen is None:
        parts = [_wrap(f"no engine for {_label(judgement.model)}: {judgement.because}", "  ")]
    else:
        parts = [_wrap(f"{judgement.chosen} for {_label(judgement.model)}: {judgement.because}", "  ")]
    if judgement.on_disk:
        parts.append(f"file: {judgement.variant}\n")
    else:
        parts.append(f"not on this disk; to fetch it: llmrun models pull {judgement.variant}\n")
    if judgement.plan is not None:
        parts.append(_wrap(_plan_line(judgement.plan), "  "))
    parts.append("\n")
    for verdict in judgement.verdicts:
        parts.append(f"{marks[0] if verdict.eligible else marks[1]} {verdict.engine}\n")
        for reason in verdict.reasons:
            parts.append(_wrap(f"    {reason.detail}  [{reason.code}]", "      "))
            if reason.fix:
                parts.append(_wrap(f"      fix: {reason.fix}", "        "))
    return "".join(parts)


def _label(model: str) -> str:
    """Return what fits into the first line: of a long path the file's name."""
    return model if len(model) <= _LONGEST_LABEL else model.rstrip("/").rsplit("/", 1)[-1]


def _plan_line(plan: LoadPlan) -> str:
    layers = {0: "no layers", -1: "all layers"}.get(plan.gpu_layers, f"{plan.gpu_layers} layers")
    return (
        f"plan: a context of up to {plan.context_length:,} tokens, {plan.threads} threads, {layers} on a GPU, "
        f"{_gib(plan.estimated_bytes)} of memory at most"
    )


def machine_document(machine: Machine, engines: Mapping[EngineName, EngineFacts]) -> dict[str, Any]:
    """Return what `which-backend --json` prints without a model."""
    return {
        "version": _VERSION,
        "machine": machine_to_json(machine),
        "engines": [engine_document(facts) for facts in engines.values()],
    }


def model_document(judgement: Judgement, machine: Machine, engines: Mapping[EngineName, EngineFacts]) -> dict[str, Any]:
    """Return what `which-backend MODEL --json` prints."""
    return {
        "version": _VERSION,
        "model": judgement.model,
        "variant": judgement.variant,
        "on_disk": judgement.on_disk,
        "facts": asdict(judgement.facts),
        "chosen": judgement.chosen,
        "because": judgement.because,
        "verdicts": [asdict(verdict) for verdict in judgement.verdicts],
        "plan": None if judgement.plan is None else asdict(judgement.plan),
        "machine": machine_to_json(machine),
        "engines": [engine_document(facts) for facts in engines.values()],
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
    yield "memory", f"{_gib(memory.available_bytes)} of {_gib(memory.total_bytes)} available{limit}"
    if machine.memory_bandwidth_bytes_per_second:
        yield "bandwidth", f"{machine.memory_bandwidth_bytes_per_second / 1e9:.1f} GB/s"
    if machine.disk_free_bytes is not None:
        yield "disk", f"{_gib(machine.disk_free_bytes)} free for models"
    for gpu in machine.gpus:
        free = "unknown" if gpu.free_bytes is None else _gib(gpu.free_bytes)
        total = "unknown" if gpu.total_bytes is None else _gib(gpu.total_bytes)
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        yield "GPU", f"{gpu.name}, {free} of {total} free{capability}"
    if not machine.gpus:
        yield "GPU", "none found"


def _instructions(flags: frozenset[str]) -> str:
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
    return " ".join(flag for flag in known if flag in flags) or "no vector instructions that engines use"


def _engine_line(facts: EngineFacts) -> str:
    if not facts.installed:
        return "not installed"
    parts = [facts.version or "unknown version"]
    parts += [value for name, value in facts.build if name in ("recipe", "compiler")]
    parts.append("GPU build" if facts.gpu_support else "CPU build" if facts.gpu_support is False else "")
    health = {"healthy": "tried: works", "crashes": f"crashes: {facts.health_detail}"}.get(facts.health, "not tried")
    return ", ".join(part for part in (*parts, health) if part)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = []
    for name, value in rows:
        lines.append(_wrap(f"{name:<14} {value}".rstrip(), " " * 15) if name else "\n")
    return "".join(lines)


def _wrap(text: str, indent: str) -> str:
    lead = text[: len(text) - len(text.lstrip())]
    wrapped = textwrap.wrap(
        text.strip(),
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=True,
        drop_whitespace=True,
    )
    return "\n".join(wrapped or [""]) + "\n"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.1f} GiB"
