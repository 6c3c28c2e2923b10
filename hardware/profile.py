"""A machine as a JSON file: written by `--save-machine`, read by `--machine`, published with llmrun's tests.

Reading is strict, because the answer is only as good as the file: a missing, mistyped, unknown or impossible value is
refused with the name of the field, and nothing is guessed. A file may state its `source` (where the figures come
from), which is kept out of the machine.
"""

import json
import math
import re
import stat
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from llmrun.errors import UsageError
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo

__all__ = ["MAX_PROFILE_BYTES", "PROFILE_VERSION", "machine_from_json", "machine_to_json", "read_machine"]

PROFILE_VERSION = 1
MAX_PROFILE_BYTES = 1 << 20  # a hundred times what the largest real machine needs
_MOST_MEMORY_BYTES = 1 << 50  # a pebibyte
_MOST_DISK_BYTES = 1 << 60  # an exbibyte; limits too are often far above what there is
_MOST_PROCESSORS = 65536
_MOST_ITEMS = 1000
_LONGEST_TEXT = 2000
_REQUIRED: Any = object()
_FIX = "llmrun which-backend --save-machine FILE writes one for the machine it runs on"
_VERSION_NUMBER = r"\d{1,6}(\.\d{1,6}){1,3}"


def machine_to_json(machine: Machine, source: str | None = None) -> dict[str, Any]:
    """Return what `machine_from_json` reads, in values that `json.dumps` takes."""
    data = asdict(machine)
    data["cpu"]["isa_flags"] = sorted(machine.cpu.isa_flags)
    head: dict[str, Any] = {"version": PROFILE_VERSION}
    document: dict[str, Any] = _plain(head | ({"source": source} if source else {}) | data)
    return document


def _plain(value: Any) -> Any:
    """Return lists for tuples, and every text as one printable line: some come from files and drivers as they are."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return "".join(char if char.isprintable() else " " for char in value[:_LONGEST_TEXT]) or " "
    return value


def read_machine(path: Path) -> Machine:
    """Read a machine file.

    Raises:
        UsageError: It is not there, is no regular file, is too large, or is not a machine.
    """
    try:
        status = path.stat()  # before it is opened: opening a FIFO waits for ever
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a file that describes a machine", fix=_FIX)
        with path.open("rb") as file:
            content = file.read(MAX_PROFILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UsageError(f"cannot read the machine file {path}: {reason or error}", fix=_FIX) from error
    size_bytes = max(status.st_size, len(content))
    if size_bytes > MAX_PROFILE_BYTES:
        raise _too_large(str(path), size_bytes)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a machine file: it is not text in UTF-8", fix=_FIX) from error
    return machine_from_json(text, str(path))


def machine_from_json(text: str, name: str) -> Machine:
    """Return the machine that `text` describes; `name` is what error messages call it.

    Raises:
        UsageError: It is not one; the message names the field that is missing, mistyped, unknown or impossible.
    """
    if len(text) > MAX_PROFILE_BYTES:
        raise _too_large(name, len(text))
    fields = _Fields(_parse(text, name), name, "")
    version = fields.take("version")
    if type(version) is not int or version != PROFILE_VERSION:
        fields.refuse("version", f"is {_show(version)}, and this llmrun reads version {PROFILE_VERSION}")
    fields.text("source", None)
    machine = Machine(
        system=fields.text("system", pattern=r"[a-z0-9_-]{1,40}"),
        python_version=fields.text("python_version", pattern=_VERSION_NUMBER),
        cpu=_read_cpu(fields.child("cpu")),
        memory=_read_memory(fields.child("memory")),
        gpus=tuple(_read_gpu(child) for child in fields.children("gpus")),
        problems=fields.texts("problems", ()),
        disk_free_bytes=fields.whole("disk_free_bytes", 0, _MOST_DISK_BYTES, None),
        container=fields.text("container", None, pattern=r"[a-z0-9_.-]{1,40}"),
        wsl=fields.boolean("wsl", False),
        memory_bandwidth_bytes_per_second=fields.number("memory_bandwidth_bytes_per_second", 1e6, 1e14, None),
    )
    fields.finish()
    return machine


def _read_cpu(fields: "_Fields") -> CpuInfo:
    cpu = CpuInfo(
        name=fields.text("name", nullable=True),
        architecture=fields.text("architecture", pattern=r"[a-z0-9_]{1,40}"),
        physical_cores=fields.whole("physical_cores", 1, _MOST_PROCESSORS, nullable=True),
        logical_cores=fields.whole("logical_cores", 1, _MOST_PROCESSORS),
        affinity=fields.whole("affinity", 1, _MOST_PROCESSORS),
        quota=fields.number("quota", 0.001, _MOST_PROCESSORS, nullable=True),
        isa_flags=frozenset(fields.texts("isa_flags")),
    )
    fields.finish()
    return cpu


def _read_memory(fields: "_Fields") -> MemoryInfo:
    memory = MemoryInfo(
        total_bytes=fields.whole("total_bytes", 0, _MOST_MEMORY_BYTES),  # 0: it could not be read
        available_bytes=fields.whole("available_bytes", 0, _MOST_MEMORY_BYTES),
        limit_bytes=fields.whole("limit_bytes", 0, _MOST_DISK_BYTES, None),
        limit_source=fields.text("limit_source", None),
    )
    if memory.available_bytes > memory.total_bytes > 0:
        fields.refuse("available_bytes", f"is {memory.available_bytes}, more than total_bytes {memory.total_bytes}")
    fields.finish()
    return memory


def _read_gpu(fields: "_Fields") -> GPU:
    vendor = fields.text("vendor")
    if vendor not in list(GpuVendor):
        fields.refuse("vendor", f"is {_show(vendor)}; known are {', '.join(GpuVendor)}")
    gpu = GPU(
        vendor=GpuVendor(vendor),
        name=fields.text("name"),
        total_bytes=fields.whole("total_bytes", 1, _MOST_MEMORY_BYTES, nullable=True),
        free_bytes=fields.whole("free_bytes", 0, _MOST_MEMORY_BYTES, nullable=True),
        compute_capability=fields.text("compute_capability", None, pattern=r"\d{1,3}\.\d{1,3}"),
        driver=fields.text("driver", None),
        cuda_version=fields.text("cuda_version", None, pattern=r"\d{1,3}\.\d{1,3}"),
        memory_bandwidth_bytes_per_second=fields.number("memory_bandwidth_bytes_per_second", 1e6, 1e14, None),
        unified_memory=fields.boolean("unified_memory", False),
    )
    if gpu.total_bytes is not None and gpu.free_bytes is not None and gpu.free_bytes > gpu.total_bytes:
        fields.refuse("free_bytes", f"is {gpu.free_bytes}, more than total_bytes {gpu.total_bytes}")
    fields.finish()
    return gpu


class _Fields:
    """The fields of one JSON object, taken one by one; what is left over at the end is unknown."""

    def __init__(self, data: object, name: str, where: str) -> None:
        self._name = name
        self._where = where
        if not isinstance(data, dict):
            raise UsageError(f"{name} is not a machine file: {where or 'it'} is {_kind(data)}, not an object", fix=_FIX)
        self._data: dict[str, Any] = dict(data)

    def refuse(self, key: str, why: str) -> NoReturn:
        path = f"{self._where}.{key}" if self._where else key
        raise UsageError(f"{self._name} is not a machine file: {path} {why}", fix=_FIX)

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self._data.pop(key, default)
        if value is _REQUIRED:
            self.refuse(key, "is missing")
        return value

    def finish(self) -> None:
        for key in self._data:
            self.refuse(_show(key).strip('"'), "is no field of a machine")

    def whole(self, key: str, least: int, most: int, default: Any = _REQUIRED, *, nullable: bool = False) -> Any:
        value = self.take(key, default)
        if value is None and (nullable or default is None):
            return None
        if type(value) is not int:
            self.refuse(key, f"is {_kind(value)}, not a whole number")
        return self._within(key, value, least, most)

    def number(self, key: str, least: float, most: float, default: Any = _REQUIRED, *, nullable: bool = False) -> Any:
        value = self.take(key, default)
        if value is None and (nullable or default is None):
            return None
        if type(value) not in {int, float}:
            self.refuse(key, f"is {_kind(value)}, not a number")
        return float(self._within(key, value, least, most))

    def _within(self, key: str, value: float, least: float, most: float) -> float:
        if not least <= value <= most:
            self.refuse(key, f"is {_show(value)}; it can be {least} to {most}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.refuse(key, f"is {_kind(value)}, not true or false")
        return value

    def text(self, key: str, default: Any = _REQUIRED, *, pattern: str = ".+", nullable: bool = False) -> Any:
        value = self.take(key, default)
        if value is None and (nullable or default is None):
            return None
        return self._checked(key, value, pattern)

    def texts(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        items = self._items(key, default)
        return tuple(self._checked(f"{key}[{index}]", item, ".+") for index, item in enumerate(items))

    def child(self, key: str) -> "_Fields":
        return _Fields(self.take(key), self._name, key)

    def children(self, key: str) -> Iterable["_Fields"]:
        for index, item in enumerate(self._items(key, ())):
            yield _Fields(item, self._name, f"{key}[{index}]")

    def _items(self, key: str, default: Any) -> Iterable[Any]:
        items = self.take(key, default)
        if not isinstance(items, list | tuple):
            self.refuse(key, f"is {_kind(items)}, not a list")
        if len(items) > _MOST_ITEMS:
            self.refuse(key, f"has {len(items)} items; it can have {_MOST_ITEMS}")
        return items

    def _checked(self, key: str, value: object, pattern: str) -> str:
        if not isinstance(value, str):
            self.refuse(key, f"is {_kind(value)}, not a text")
        if len(value) > _LONGEST_TEXT or not value.isprintable() or not re.fullmatch(pattern, value, re.ASCII):
            self.refuse(key, f"cannot be {_show(value)}")
        return value


def _parse(text: str, name: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float, object_pairs_hook=_pairs)
    except RecursionError as error:
        raise UsageError(f"{name} is not a machine file: it is nested too deeply", fix=_FIX) from error
    except ValueError as error:
        reason = str(error).splitlines()[0][:200] if text.strip() else "it is empty"
        raise UsageError(f"{name} is not a machine file: {reason}", fix=_FIX) from error


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a field is given twice")
    return data


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is too large a number")
    return value


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), "something else")


def _show(value: object) -> str:
    """Return a value for a message: short, one line, ASCII only, so that no file writes to the terminal through it."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _too_large(name: str, size_bytes: int) -> UsageError:
    return UsageError(
        f"{name} is not a machine file: it has {size_bytes} bytes, and one has at most {MAX_PROFILE_BYTES}", fix=_FIX
    )
