"""Results read back from files, one or a folder of them: nothing is believed of them that was not checked."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.engines.measure.result import SCHEMA, VERSION
from llmrun.engines.measure.samples import Metric
from llmrun.errors import ModelFileError, ModelNotFoundError

__all__ = ["SETTINGS", "StoredResult", "StoredRow", "StoredSide", "parse_result", "read_result", "read_side"]

SETTINGS = {
    "model": "model",
    "engine": "engine",
    "threads": "threads",
    "kv_type": "KV type",
    "gpu_layers": "GPU layers",
    "dtype": "type",
    "quantization": "quantization",
    "parallel": "at once",
    "depth": "depth",
    "prompt_tokens": "prompt",
    "answer_tokens": "answer",
}
"""What tells rows of one result apart, and how each is called."""
_NAMES = ("model", "engine", "kv_type", "dtype")  # settings that are texts
_ADDED = {"dtype": "auto", "quantization": None}  # later than the first results
_PLAUSIBLE = (1e-9, 1e15)  # seconds, bytes, and whatever is counted in a second: what is beyond was not measured
_MOST_BYTES = 64 << 20
_FIX = "a file that `llmrun bench … --output json` wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """One row.

    Attributes:
        settings: The value of each of `SETTINGS`.
        samples: What was measured; empty if the engine failed.
        tokens_digest: What tells whether another row had the same token ids.
        warnings: What was said of it then.
        peak_memory_bytes: None if it failed.
        on_gpu: Whether it had memory of a GPU.
    """

    settings: Mapping[str, Any]
    samples: Mapping[Metric, tuple[float, ...]]
    tokens_digest: str | None
    warnings: tuple[str, ...]
    peak_memory_bytes: int | None
    on_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """One document.

    Attributes:
        name: What it is called in sentences.
        created: When it was done, in ISO 8601; moment is the same instant.
        llmrun: Version of the program.
        machine: Its processor, cores and memory in words.
        bandwidths: Bytes of memory a second, as often as it was measured, by the number of threads.
        builds: Version and stamp of each engine.
    """

    name: str
    created: str
    moment: datetime.datetime
    llmrun: str
    machine: str
    bandwidths: Mapping[int, tuple[float, ...]]
    builds: Mapping[str, str]
    rows: tuple[StoredRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSide:
    """The runs on one side of a comparison, the first one first.

    Attributes:
        name: What they are called in sentences.
        strangers: Files of the folder that are JSON, and no results.
        copies: Files that hold a run that another one holds too; it counts once.
    """

    name: str
    runs: tuple[StoredResult, ...]
    strangers: int = 0
    copies: int = 0


def read_side(path: Path) -> StoredSide:
    """Read a result, or all that are in a folder: its files `*.json` that say that they are one.

    Raises:
        ModelNotFoundError: There is no such file or folder.
        ModelFileError: A file cannot be read, is no JSON, is of a later version, or is damaged; a folder has no result.
    """
    if not path.is_dir():
        return StoredSide(name=str(path), runs=(read_result(path),))
    try:
        names = sorted(each for each in path.iterdir() if each.suffix == ".json" and not each.name.startswith("."))
        files = [each for each in names if not each.is_dir()]
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}", fix=_FIX) from error
    runs: list[StoredResult] = []
    strangers = copies = 0
    for file in files:
        document = _read_json(file)
        if not _is_result(document):
            strangers += 1
            continue
        run = parse_result(document, str(file))
        if any(run.created == other.created and run.rows == other.rows for other in runs):
            copies += 1
        else:
            runs.append(run)
    if not runs:
        raise ModelFileError(
            f"there is no result in the folder {path}", fix=f"llmrun bench MODEL --output json > {path / '1.json'}"
        )
    runs.sort(key=lambda run: run.moment)
    return StoredSide(name=str(path), runs=tuple(runs), strangers=strangers, copies=copies)


def read_result(path: Path) -> StoredResult:
    """Read a result.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFileError: It cannot be read, is no result, is of a later version, or is damaged.
    """
    return parse_result(_read_json(path), str(path))


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}", fix=_FIX) from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}", fix=_FIX) from error
    if len(data) > _MOST_BYTES:
        raise ModelFileError(f"{path} is larger than {_MOST_BYTES >> 20} MiB, which no result is", fix=_FIX)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no result of a measurement: it is not JSON", fix=_FIX) from error


def _is_result(document: Any) -> bool:
    return isinstance(document, dict) and document.get("schema") == SCHEMA


def parse_result(document: Any, name: str) -> StoredResult:
    """Check a document.

    Raises:
        ModelFileError: It is no result, is of a later version, or is damaged.
    """
    if not _is_result(document):
        raise ModelFileError(f"{name} is no result of `llmrun bench`: it does not say schema {SCHEMA}", fix=_FIX)
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        told = repr(version)[:40]
        raise ModelFileError(f"{name} is of version {told}, and this llmrun reads version {VERSION}", fix=_FIX)
    if "rows" not in document and "engine" in document:
        raise ModelFileError(f"{name} is one row, as --output jsonl writes them, and not a whole result", fix=_FIX)
    try:
        return StoredResult(
            name=name,
            created=_text(document["created"]),
            moment=_moment(document["created"]),
            llmrun=_text(document["llmrun"]),
            machine=_machine(document["machine"]),
            bandwidths=_bandwidths(document["limits"]),
            builds={_text(each["engine"]): f"{each['version']} {_text(each['stamp'])}" for each in document["engines"]},
            rows=tuple(_row(row) for row in document["rows"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise ModelFileError(f"{name} is a damaged result: {cause[:200]}", fix=_FIX) from error


def _row(row: dict[str, Any]) -> StoredRow:
    peak = row["peak_memory_bytes"]
    settings = {name: _setting((_ADDED | row)[name]) for name in SETTINGS}
    return StoredRow(
        settings=settings | {name: _text(settings[name]) for name in _NAMES},
        samples={Metric(name): _samples(values) for name, values in row["samples"].items()},
        tokens_digest=_optional_text(row["tokens_digest"]),
        warnings=tuple(_text(warning) for warning in row["warnings"]),
        peak_memory_bytes=None if peak is None else int(_number(peak)),
        on_gpu=bool(row.get("gpu_memory_bytes")),
    )


def _bandwidths(limits: list[dict[str, Any]]) -> dict[int, tuple[float, ...]]:
    """Return what was measured; results that are older have the measurement at the start only."""
    found = {}
    for limit in limits:
        now = limit["bytes_per_second_now"]
        seen = limit.get("bytes_per_second_seen") or ([] if now is None else [now])
        if seen:
            found[int(_number(limit["threads"]))] = _samples(seen)
    return found


def _samples(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError("samples are missing")
    return tuple(_number(value) for value in values)


def _number(value: Any) -> float:
    least, most = _PLAUSIBLE
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{value!r} is no measured number")
    return float(value)


def _setting(value: Any) -> Any:
    if not (value is None or isinstance(value, str | int)):
        raise ValueError(f"{value!r} is no setting")
    return value


def _machine(machine: dict[str, Any]) -> str:
    cpu = machine["cpu"]
    name = _optional_text(cpu["name"]) or "an unknown processor"
    return f"{name} ({int(cpu['logical_cores'])} cores, {int(machine['memory']['total_bytes']) / (1 << 30):.0f} GiB)"


def _moment(value: Any) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(_text(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)
