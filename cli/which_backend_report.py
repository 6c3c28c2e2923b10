"""What `which-backend MODEL` shows: pure functions from a judgement to text for 80 columns and to a JSON document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmrun.cli.layout import gib, wrap
from llmrun.cli.machine_report import engine_document
from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.measure.speeds import MeasuredSpeed
from llmrun.engines.memory.needs import MemoryPlan
from llmrun.engines.selection.judgement import Forecast, Judgement
from llmrun.engines.selection.reasons import ReasonCode, Verdict
from llmrun.engines.selection.subject import Subject
from llmrun.engines.selection.suggestions import Suggestion
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.hardware.profile import machine_to_json
from llmrun.hardware.types import Machine

__all__ = ["model_document", "model_text"]

_VERSION = 1
_LONGEST_LABEL = 36
_COLUMNS = "{:<4}{:<15}{:<31}{}"


def model_text(
    judgement: Judgement, suggestions: Sequence[Suggestion] = (), marks: tuple[str, str] = ("✓", "✗")
) -> str:
    """Return the choice in the first line, then a table of the engines, each with its reasons."""
    subject = judgement.subject
    chosen = "no engine" if judgement.chosen is None else judgement.chosen.value
    parts = [wrap(f"{chosen} for {_short(subject.ref.text)}: {judgement.because}")]
    parts.append(f"file: {subject.label}\n" if subject.on_disk else wrap(_absent(subject)))
    if subject.info is not None and subject.info.architecture_source is not None:
        parts.append(wrap(f"model type: {subject.info.architecture} (told by: {subject.info.architecture_source})"))
    if judgement.plan is not None:
        parts.append(wrap(_plan_line(judgement.plan)))
    parts += [wrap(f"note: {notice}") for notice in (*subject.notices, *judgement.notices)]
    parts.append("\n" + _COLUMNS.format("", "engine", "memory needed / free", "expected").rstrip() + "\n")
    for verdict in judgement.verdicts:
        forecast = judgement.forecasts.get(verdict.engine) or Forecast()
        parts.append(_engine_lines(verdict, forecast, judgement.speeds.get(verdict.engine), marks))
    if suggestions:
        parts.append("\n")
    for suggestion in suggestions:
        command = f": {suggestion.command}" if suggestion.command else ""
        parts.append(wrap(f"better: {suggestion.text}{command}"))
    return "".join(parts)


def _short(reference: str) -> str:
    """Return what fits into the first line: of a long path the file's name."""
    return reference if len(reference) <= _LONGEST_LABEL else reference.rstrip("/").rsplit("/", 1)[-1]


def _absent(subject: Subject) -> str:
    size = f", {gib(subject.remote.missing_bytes)}" if subject.remote is not None else ""
    return f"not on this disk{size}; to fetch it: llmrun models pull {subject.pull.text}"


def _plan_line(plan: LoadPlan) -> str:
    threads = f"{plan.threads} thread{'s' if plan.threads != 1 else ''}"
    layers = {0: "no layers", -1: "all layers"}.get(plan.gpu_layers, f"{plan.gpu_layers} layers")
    kind = "" if plan.kv_type == "f16" else f"{plan.kv_type} keys and values, "
    return (
        f"plan: a context of up to {plan.context_length:,} tokens, {threads}, {layers} on a GPU, {kind}"
        f"{gib(plan.estimated_bytes)} of memory at most" + (f"; tuned on {plan.tuned}" if plan.tuned else "")
    )


def _engine_lines(verdict: Verdict, forecast: Forecast, measured: MeasuredSpeed | None, marks: tuple[str, str]) -> str:
    mark = marks[0] if verdict.eligible else marks[1]
    memory = "-" if forecast.memory is None else _memory_cell(forecast.memory)
    speed = "-" if forecast.speed is None else f"about {_rate(forecast.speed.decode_tokens_per_second)} tokens/s"
    if measured is not None:
        speed = f"{measured.decode_mean:,.1f} tokens/s"
    lines = [_COLUMNS.format(mark, verdict.engine, memory, speed).rstrip() + "\n"]
    if measured is not None:
        told = f"prompts {measured.prefill_mean:,.0f} tokens/s, loading {measured.load_seconds:.1f} s"
        lines.append(wrap(f"    measured on {measured.created}; {told}", "      "))
    if forecast.speed is not None and verdict.eligible:
        own = " and ".join(forecast.speed.own_kernels)
        kernels = f"; {own} by llmrun's own kernels" if own else ""
        lines.append(wrap(f"    limited by {forecast.speed.limit}{kernels}", "      "))
    if any(reason.code is ReasonCode.FORMAT for reason in verdict.reasons):
        # Nothing mends this one, so what else is missing matters little.
        reasons = "; ".join(f"{reason.detail} [{reason.code}]" for reason in verdict.reasons)
        fixes = (reason.fix for reason in verdict.reasons if reason.code is ReasonCode.FORMAT and reason.fix)
        return "".join(
            (*lines, wrap(f"    {reasons}", "      "), *(wrap(f"      fix: {fix}", "        ") for fix in fixes))
        )
    for reason in verdict.reasons:
        lines.append(wrap(f"    {reason.detail} [{reason.code}]", "      "))
        if reason.fix:
            lines.append(wrap(f"      fix: {reason.fix}", "        "))
    return "".join(lines)


def _memory_cell(plan: MemoryPlan) -> str:
    """Return `0.3 / 22.7 GiB`, or with a GPU `GPU 17.8/23.3 + 3.7/56.0 GiB`."""
    main = _amount(plan.main_bytes), _amount(plan.main_free_bytes)
    if not plan.gpu_bytes:
        return f"{main[0]} / {main[1]} GiB"
    gpu = f"GPU {_amount(plan.gpu_bytes)}/{_amount(plan.gpu_free_bytes)}"
    return f"{gpu} + {main[0]}/{main[1]} GiB" if plan.main_bytes else f"{gpu} GiB"


def _amount(size_bytes: int | None) -> str:
    """Return GiB, to a tenth below a hundred."""
    if size_bytes is None:
        return "?"
    size = size_bytes / 2**30
    return f"{size:,.1f}" if size < 99.95 else f"{size:,.0f}"


def _rate(tokens_per_second: float) -> str:
    """Return two significant digits: an estimate has no more."""
    if tokens_per_second < 10:
        return f"{tokens_per_second:.1f}"
    digits = len(str(int(tokens_per_second))) - 2
    return f"{round(tokens_per_second, -digits):,.0f}"


def model_document(
    judgement: Judgement,
    machine: Machine,
    engines: Mapping[EngineName, EngineFacts],
    suggestions: Sequence[Suggestion] = (),
) -> dict[str, Any]:
    """Return what `which-backend MODEL --json` prints."""
    subject = judgement.subject
    return {
        "version": _VERSION,
        "model": subject.ref.text,
        "variant": subject.label,
        "on_disk": subject.on_disk,
        "download_bytes": None if subject.remote is None else subject.remote.missing_bytes,
        "facts": asdict(subject.facts),
        "architecture_source": None if subject.info is None else subject.info.architecture_source,
        "chosen": judgement.chosen,
        "because": judgement.because,
        "verdicts": [
            _verdict_document(verdict, judgement.forecasts.get(verdict.engine) or Forecast())
            | {"measured": _measured_document(judgement.speeds.get(verdict.engine))}
            for verdict in judgement.verdicts
        ],
        "plan": None if judgement.plan is None else asdict(judgement.plan),
        "notices": (*subject.notices, *judgement.notices),
        "suggestions": [asdict(suggestion) for suggestion in suggestions],
        "machine": machine_to_json(machine),
        "engines": [engine_document(facts) for facts in engines.values()],
    }


def _verdict_document(verdict: Verdict, forecast: Forecast) -> dict[str, Any]:
    document = asdict(verdict)
    document["memory"] = None if forecast.memory is None else _memory_document(forecast.memory)
    document["speed"] = None if forecast.speed is None else asdict(forecast.speed)
    return document


def _measured_document(measured: MeasuredSpeed | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    document = asdict(measured)
    del document["engine"]
    means = {
        "decode_tokens_per_second": measured.decode_mean,
        "prefill_tokens_per_second": measured.prefill_mean,
    }
    return document | means


def _memory_document(plan: MemoryPlan) -> dict[str, Any]:
    document = asdict(plan)
    del document["engine"]
    document["need"]["total_bytes"] = plan.need.total_bytes
    return document
