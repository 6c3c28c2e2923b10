"""How much main memory a new process can take here, which is often less than the machine has.

available = min(MemAvailable, every control group's limit less its use, RLIMIT_AS less what is mapped).
Nothing is raised: an unknown amount is 0 bytes and a sentence in `problems`.
"""

import sys
from pathlib import Path

from llmrun.hardware.cgroup import read_memory_limits
from llmrun.hardware.sysfiles import read_text
from llmrun.hardware.types import MemoryInfo

__all__ = ["probe_memory"]


def probe_memory(root: Path = Path("/")) -> tuple[MemoryInfo, tuple[str, ...]]:
    """Return the memory, and a sentence for everything that could not be read."""
    total, available = _read_meminfo(root) if sys.platform == "linux" else _read_with_psutil()
    problems = () if total else ("memory: its size cannot be read",)
    limit: int | None = None
    source: str | None = None
    for group in read_memory_limits(root):
        available = min(available, group.free_bytes) if total else group.free_bytes
        if group.limit_bytes < (limit or total or group.limit_bytes + 1):
            limit, source = group.limit_bytes, group.source
    address_space = _read_address_space_limit()
    if address_space is not None:
        available = max(0, min(available, address_space - _read_mapped_bytes(root)))
        if address_space < (limit or total):
            limit, source = address_space, "RLIMIT_AS"
    memory = MemoryInfo(total_bytes=total, available_bytes=available, limit_bytes=limit, limit_source=source)
    return memory, problems


def _read_meminfo(root: Path) -> tuple[int, int]:
    """Return total and available bytes, (0, 0) if they cannot be read."""
    values: dict[str, int] = {}
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        key, _, rest = line.partition(":")
        fields = rest.split()
        if fields and fields[0].isdecimal():
            values[key] = int(fields[0]) * 1024
    total = values.get("MemTotal", 0)
    # Kernels before 3.14 have no MemAvailable.
    estimate = values.get("MemFree", 0) + values.get("Buffers", 0) + values.get("Cached", 0)
    return total, min(total, values.get("MemAvailable", estimate))


def _read_with_psutil() -> tuple[int, int]:
    try:
        import psutil

        memory = psutil.virtual_memory()
        return int(memory.total), int(memory.available)
    except Exception:  # noqa: BLE001 - a probe: whatever psutil cannot do here, the answer is "unknown"
        return 0, 0


def _read_address_space_limit() -> int | None:
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return None if soft == resource.RLIM_INFINITY or soft < 0 else soft


def _read_mapped_bytes(root: Path) -> int:
    for line in (read_text(root / "proc/self/status") or "").splitlines():
        if line.startswith("VmSize:"):
            fields = line.split()
            return int(fields[1]) * 1024 if len(fields) > 1 and fields[1].isdecimal() else 0
    return 0
