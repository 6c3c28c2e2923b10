"""Measured speeds kept between commands, each under everything that it depends on, so that it is forgotten by itself.

The key is the model (its contents where they are known, and its file with size and time), the engine with its version
and installation, and the machine. When any of them changes, nothing is found, and the rules choose as before. Only what
was measured with an engine's defaults is kept, and nothing that is hardly more than noise.
"""

import datetime
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.installed.kept import keep, read_document, read_kept
from llmrun.engines.measure.speeds import MeasuredSpeed
from llmrun.engines.measure.statistics import Summary, summarize
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName
from llmrun.errors import StorageError
from llmrun.folders import cache_folder
from llmrun.hardware.types import Machine
from llmrun.models.types import LocalModel, ModelInfo

if TYPE_CHECKING:
    from llmrun.engines.measure.bench import Row

__all__ = [
    "Sibling",
    "environment_key",
    "find_siblings",
    "has_usual_types",
    "keep_rows",
    "keep_speed",
    "kept_key",
    "kept_speeds",
    "model_names",
]

_KEPT = "kept, and counts when an engine is chosen for this model"
_FOLDER = "measured"
_UNUSABLE = 0.25  # half of the interval; the test that compares engines weighs what noise there is below that


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """The same model in another quantization, measured on the same machine and engine."""

    path: str
    reference: str
    quantization: str
    speed: MeasuredSpeed


def kept_speeds(
    model: LocalModel, engines: Mapping[EngineName, EngineFacts], machine: Machine
) -> dict[EngineName, MeasuredSpeed]:
    """Return what was measured of a model with the engines as they are now."""
    try:
        if not (cache_folder() / _FOLDER).is_dir():
            return {}
        names = model_names(model)
    except (OSError, StorageError):
        return {}
    found = {}
    for engine, facts in engines.items():
        for name in names if facts.installed else ():
            speed = _parse(read_kept(_FOLDER, kept_key(name, facts, machine)), engine)
            if speed is not None:
                found[engine] = speed
                break
    return found


def keep_speed(speed: MeasuredSpeed, model: LocalModel, info: ModelInfo, facts: EngineFacts, machine: Machine) -> bool:
    """Keep a measurement for `kept_speeds` and `find_siblings`; return whether that could be done."""
    value = {
        "speed": asdict(speed),
        "lineage": _lineage(info),
        "quantization": info.quantization,
        "path": str(model.path),
        "reference": model.ref.text,
        "environment": environment_key(facts, machine),
    }
    return all(keep(_FOLDER, kept_key(name, facts, machine), value) for name in model_names(model))


def keep_rows(
    rows: "Sequence[Row]",
    models: Mapping[str, tuple[LocalModel, ModelInfo]],
    engines: Mapping[EngineName, EngineFacts],
    machine: Machine,
    created: str,
    *,
    usual: bool = True,
    memory_seen: Mapping[int, Sequence[float]] | None = None,
) -> list[str]:
    """Keep what can be used of a sweep; return a sentence for each row that cannot, and for the ones that were kept.

    Args:
        rows: What was measured.
        models: The models, by the digest that rows name them by.
        engines: What is known of the engines.
        machine: This one.
        created: The day.
        memory_seen: Bytes a second at which memory was read meanwhile, by the number of threads.
        usual: Whether the engines had their defaults in what is not part of a row (types of numbers, quantization).
    """
    said = []
    for row in rows:
        if row.error is not None:
            continue
        engine, sizes = row.point.setup.engine, row.point.sizes
        told = _objection(row, machine, usual=usual)
        if not told and engine in engines and row.model.digest in models:
            seen = (memory_seen or {}).get(row.point.setup.threads, ())
            kept = keep_speed(_speed(row, created, seen), *models[row.model.digest], engines[engine], machine)
            told = _KEPT if kept else "not kept: the cache cannot be written"
        if told:
            said.append(f"{engine}, {sizes.prompt_tokens} + {sizes.answer_tokens} is {told}")
    return said


def _objection(row: "Row", machine: Machine, *, usual: bool) -> str:
    """Return why a row is of no use for choosing; empty if it is of use."""
    from llmrun.engines.measure.samples import Metric

    setup = row.point.setup
    had = (setup.threads, setup.kv_type, setup.gpu_layers, setup.parallel, row.point.sizes.depth, usual)
    rates = (Metric.PREFILL, Metric.DECODE)
    if had != (machine.cpu.threads, "f16", None, 1, 0, True) or not all(row.samples.get(metric) for metric in rates):
        return "not kept: only what is measured with the defaults decides between engines"
    if _unusable(summarize(_speed(row, "", ()).request_seconds)):
        return "not kept: too noisy, or a single repetition"
    return ""


def _speed(row: "Row", created: str, memory_seen: Sequence[float]) -> MeasuredSpeed:
    from llmrun.engines.measure.samples import Metric

    load = row.summary(Metric.LOAD)
    return MeasuredSpeed(
        engine=row.point.setup.engine,
        created=created,
        load_seconds=0.0 if load is None else load.median,
        prompt_tokens=row.point.sizes.prompt_tokens,
        answer_tokens=row.point.sizes.answer_tokens,
        prefill=row.samples[Metric.PREFILL],
        decode=row.samples[Metric.DECODE],
        memory_seen=tuple(memory_seen),
    )


def has_usual_types(request: PlanRequest) -> bool:
    """Return whether an engine computes in the types that it would take unasked: what is kept is of these only."""
    usual = PlanRequest()
    return (request.dtype, request.quantization) == (usual.dtype, usual.quantization)


def find_siblings(model: LocalModel, info: ModelInfo, facts: EngineFacts, machine: Machine) -> list[Sibling]:
    """Return what was measured of other quantizations of a model that are still there, on the same engine."""
    try:
        files = sorted((cache_folder() / _FOLDER).glob("*.json"))
    except (OSError, StorageError):
        return []
    found: dict[str, Sibling] = {}
    for file in files:
        try:
            value = (read_document(file) or {})["value"]
            related = value["lineage"] == _lineage(info) and value["environment"] == environment_key(facts, machine)
            speed = _parse(value, facts.engine)
            path = str(value["path"])
            if not related or speed is None or path == str(model.path) or not os.path.exists(path):  # noqa: PTH110
                continue
            found[path] = Sibling(
                path=path,
                reference=str(value["reference"]),
                quantization=str(value["quantization"]),
                speed=speed,
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return list(found.values())


def _unusable(summary: Summary | None) -> bool:
    return summary is None or summary.relative_error is None or summary.relative_error > _UNUSABLE


def model_names(model: LocalModel) -> list[str]:
    """Return what a model is known by: its file as it is, and its contents where their hash is known."""
    status = model.path.stat()
    names = [f"file:{model.path.resolve()} {status.st_size} {status.st_mtime_ns}"]
    if len(model.files) == 1 and model.files[0].sha256:
        names.append(f"sha256:{model.files[0].sha256}")
    return names


def kept_key(name: str, facts: EngineFacts, machine: Machine) -> str:
    """Return what a model's measurements on an engine are kept under."""
    return f"{facts.engine}\n{name}\n{environment_key(facts, machine)}"


def environment_key(facts: EngineFacts, machine: Machine) -> str:
    """Return engine and machine as they are; memory in whole GiB, because it differs by pages from boot to boot."""
    gpus = [f"{gpu.name} {gpu.driver}" for gpu in machine.gpus]
    cpu = machine.cpu
    memory = round(machine.memory.total_bytes / (1 << 30))
    kernel = os.uname().release if hasattr(os, "uname") else ""
    return f"{facts.engine} {facts.version} {facts.stamp}\n{cpu.name} {cpu.threads} {memory} {kernel} {gpus}"


def _lineage(info: ModelInfo) -> list[Any]:
    """Return what files of the same model in other quantizations have in common."""
    return [info.name, info.architecture, info.parameters, info.layers, info.embedding_length, info.vocabulary_size]


def _parse(value: Any, engine: EngineName) -> MeasuredSpeed | None:
    """Return a measurement that was kept; None if it is damaged, or of another engine."""
    try:
        raw = value["speed"]
        if raw["engine"] != engine.value:
            return None
        speed = MeasuredSpeed(
            engine=engine,
            created=datetime.date.fromisoformat(raw["created"]).isoformat(),
            load_seconds=float(raw["load_seconds"]),
            prompt_tokens=int(raw["prompt_tokens"]),
            answer_tokens=int(raw["answer_tokens"]),
            prefill=_rates(raw["prefill"]),
            decode=_rates(raw["decode"]),
            memory_seen=_rates(raw["memory_seen"]) if raw["memory_seen"] else (),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    sound = 0 <= speed.load_seconds < math.inf and speed.prompt_tokens > 0 and speed.answer_tokens > 0
    return speed if sound and len(speed.prefill) == len(speed.decode) else None


def _rates(values: Iterable[Any]) -> tuple[float, ...]:
    rates = tuple(float(value) for value in values)
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise ValueError("no rates")
    return rates
