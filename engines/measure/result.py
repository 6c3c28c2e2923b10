"""A result as a document: versioned, complete enough to be compared on another day, and read back with care.

It carries what the figures depend on besides the model: the machine, its limits, the builds of the engines, and what
disturbed the measurement. Samples are kept, not only their statistics: a comparison needs them.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import llmrun
from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.measure.bench import Row
from llmrun.engines.measure.contention import is_disturbed
from llmrun.engines.measure.limits import Limits
from llmrun.engines.measure.samples import DEFINITIONS, Metric
from llmrun.engines.measure.statistics import Summary
from llmrun.engines.types import EngineName
from llmrun.hardware.profile import machine_to_json
from llmrun.hardware.types import Machine

__all__ = ["SCHEMA", "VERSION", "document", "find_warnings", "row_document", "too_noisy"]

SCHEMA, VERSION = "llmrun.bench", 1
_TOO_NOISY = 0.1  # half of the interval, as a share of the mean
_WORTH_TELLING = 0.01  # cores
_RATES = (Metric.PREFILL, Metric.DECODE, Metric.THROUGHPUT)


def document(
    rows: Sequence[Row],
    machine: Machine,
    limits: Mapping[int, Limits],
    engines: Mapping[EngineName, EngineFacts],
    *,
    repetitions: int,
    energy_source: str | None,
    interrupted: bool,
) -> dict[str, Any]:
    """Return the whole of a measurement as values that `json.dumps` takes."""
    models = {row.model.digest: row.model for row in rows}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmrun": llmrun.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "interrupted": interrupted,
        "repetitions": repetitions,
        "machine": machine_to_json(machine),
        "limits": [asdict(each) for each in limits.values() if each.threads],
        "energy_source": energy_source,
        "engines": [engine_document(engines[name]) for name in _used(rows) if name in engines],
        "models": [asdict(model) for model in models.values()],
        "definitions": {metric.value: definition.text for metric, definition in DEFINITIONS.items()},
        "rows": [row_document(row) for row in rows],
    }


def _used(rows: Sequence[Row]) -> list[EngineName]:
    return list(dict.fromkeys(row.point.setup.engine for row in rows))


def engine_document(facts: EngineFacts) -> dict[str, Any]:
    """Return what tells one build of an engine from another."""
    return {
        "engine": facts.engine.value,
        "version": facts.version,
        "build": dict(facts.build),
        "stamp": facts.stamp,
        "gpu_support": facts.gpu_support,
    }


def row_document(row: Row) -> dict[str, Any]:
    """Return one row; the model by its digest."""
    setup, sizes, measured = row.point.setup, row.point.sizes, row.measured
    return {
        "model": row.model.reference,
        "model_digest": row.model.digest,
        "engine": setup.engine.value,
        "threads": setup.threads,
        "kv_type": setup.kv_type,
        "gpu_layers": setup.gpu_layers,
        "dtype": row.dtype,
        "quantization": row.quantization,
        "parallel": setup.parallel,
        "prompt_tokens": sizes.prompt_tokens,
        "answer_tokens": sizes.answer_tokens,
        "depth": sizes.depth,
        "tokens_digest": row.tokens_digest,
        "error": _error(row),
        "samples": {metric.value: list(values) for metric, values in row.samples.items()},
        "statistics": {
            metric.value: asdict(summary) for metric in row.samples if (summary := row.summary(metric)) is not None
        },
        "memory_bandwidth_share": row.mbu,
        "matrix_product_share": row.mfu,
        "peak_memory_bytes": None if measured is None else measured.peak_memory_bytes,
        "gpu_memory_bytes": None if measured is None else measured.gpu_memory_bytes,
        "cached_tokens": None if measured is None else measured.cached_tokens,
        "contention": None if measured is None else asdict(measured.contention),
        "warnings": find_warnings(row),
    }


def _error(row: Row) -> dict[str, Any] | None:
    error = row.error
    if error is None:
        return None
    return {"message": error.message, "fix": error.fix, "exit_code": int(error.exit_code)}


def too_noisy(summary: Summary | None) -> bool:
    """Return whether repetitions differ so much that their mean means nothing."""
    return summary is not None and summary.relative_error is not None and summary.relative_error > _TOO_NOISY


def find_warnings(row: Row) -> list[str]:
    """Return what a reader of the row must know: that it is noise, or was disturbed, or that a depth was not kept."""
    warnings = []
    for metric in _RATES:
        summary = row.summary(metric)
        if summary is not None and too_noisy(summary):
            label = DEFINITIONS[metric].label
            warnings.append(f"too noisy to mean anything: {label} ± {100 * (summary.relative_error or 0):.0f}%")
    if row.measured is None:
        return warnings
    if row.measured.stopped is not None:
        done = max((len(row.samples.get(metric, ())) for metric in _RATES), default=0)
        warnings.append(f"interrupted after {done} repetition{'s' if done != 1 else ''}")
    if row.cold_start_problem is not None:
        warnings.append(f"the cold start could not be measured: {row.cold_start_problem}")
    if is_disturbed(row.measured.contention):
        warnings.append(f"disturbed: {_describe(row)}")
    depth, kept = row.point.sizes.depth, row.measured.cached_tokens
    if kept < depth and row.point.sizes.prompt_tokens and row.point.setup.parallel == 1:
        warnings.append(f"{depth - kept} tokens of the depth were processed again, and count as prompt")
    return warnings


def _describe(row: Row) -> str:
    assert row.measured is not None
    seen = row.measured.contention
    parts = []
    if seen.other_cores is not None:
        named = ", ".join(f"{name} {share:.2f}" for name, share in seen.others)
        parts.append(f"other programs used {seen.other_cores:.2f} cores" + (f" ({named})" if named else ""))
    if seen.stolen_cores is not None and seen.stolen_cores >= _WORTH_TELLING:
        parts.append(f"{seen.stolen_cores:.2f} cores were stolen by the host")
    return "; ".join(parts)
