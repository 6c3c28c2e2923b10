"""Results read back from files: nothing is believed of them that was not checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.engines.measure.result import SCHEMA, VERSION
from llmrun.engines.measure.samples import Metric
from llmrun.errors import ModelFileError, ModelNotFoundError

__all__ = ["SETTINGS", "StoredResult", "StoredRow", "parse_result", "read_result"]

SETTINGS = {
    "model": "model",
    "engine": "engine",
    "threads": "threads",
    "kv_type": "KV type",
    "gpu_layers": "GPU layers",
    "parallel": "at once",
    "depth": "depth",
    "prompt_tokens": "prompt",
    "answer_tokens": "answer",
}
"""What tells rows of one result apart, and how each is called."""
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
    """

    settings: Mapping[str, Any]
    samples: Mapping[Metric, tuple[float, ...]]
    tokens_digest: str | None
    warnings: tuple[str, ...]
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """One document.

    Attributes:
        name: What it is called in sentences.
        created: When it was measured.
        processor: Of the machine.
        bandwidths: Bytes of memory a second, by the number of threads.
        builds: Version and stamp of each engine.
    """

    name: str
    created: str
    processor: str | None
    bandwidths: Mapping[int, float]
    builds: Mapping[str, str]
    rows: tuple[StoredRow, ...]


def read_result(path: Path) -> StoredResult:
    """Read a result.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFileError: It cannot be read, is no result, is of a later version, or is damaged.
    """
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
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no result of a measurement: it is not JSON", fix=_FIX) from error
    return parse_result(document, str(path))


def parse_result(document: Any, name: str) -> StoredResult:
    """Check a document.

    Raises:
        ModelFileError: It is no result, is of a later version, or is damaged.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ModelFileError(f"{name} is no result of `llmrun bench`: it does not say schema {SCHEMA}", fix=_FIX)
    version = document.get("version")
    if version != VERSION:
        raise ModelFileError(f"{name} is of version {version!r}, and this llmrun reads version {VERSION}", fix=_FIX)
    try:
        return StoredResult(
            name=name,
            created=_text(document["created"]),
            processor=_optional_text(document["machine"]["cpu"]["name"]),
            bandwidths=_bandwidths(document["limits"]),
            builds={_text(each["engine"]): f"{each['version']} {_text(each['stamp'])}" for each in document["engines"]},
            rows=tuple(_row(row) for row in document["rows"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise ModelFileError(f"{name} is a damaged result: {cause[:200]}", fix=_FIX) from error


def _row(row: dict[str, Any]) -> StoredRow:
    peak = row["peak_memory_bytes"]
    return StoredRow(
        settings={name: _setting(row[name]) for name in SETTINGS},
        samples={Metric(name): _samples(values) for name, values in row["samples"].items()},
        tokens_digest=_optional_text(row["tokens_digest"]),
        warnings=tuple(_text(warning) for warning in row["warnings"]),
        peak_memory_bytes=None if peak is None else int(_number(peak)),
    )


def _bandwidths(limits: list[dict[str, Any]]) -> dict[int, float]:
    return {
        int(_number(limit["threads"])): _number(limit["bytes_per_second_now"])
        for limit in limits
        if limit["bytes_per_second_now"] is not None
    }


def _samples(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError("samples are missing")
    return tuple(_number(value) for value in values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is no measured number")
    return float(value)


def _setting(value: Any) -> Any:
    if not (value is None or isinstance(value, str | int)):
        raise ValueError(f"{value!r} is no setting")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)
