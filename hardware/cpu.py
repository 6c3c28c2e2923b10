"""What the processor is, and how much of it this process may use.

Physical cores come from the kernel's topology files, because hyper-threads share the units that matter for a matrix
product; affinity and control groups can leave less. No subprocess and no raised exception: what cannot be read
becomes None and a sentence in `problems`.
"""

import os
import sys
from pathlib import Path

from llmrun.hardware.cgroup import read_cpu_quota
from llmrun.hardware.sysfiles import read_text
from llmrun.hardware.types import CpuInfo

__all__ = ["normalise_architecture", "probe_cpu"]

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64", "i686": "x86", "i386": "x86"}


def probe_cpu(root: Path = Path("/")) -> tuple[CpuInfo, tuple[str, ...]]:
    """Return the processor, and a sentence for everything that could not be read."""
    logical = os.cpu_count() or 1
    if sys.platform == "darwin":
        name, flags, physical = _read_macos()
    else:
        block = _first_block(read_text(root / "proc/cpuinfo") or "")
        name = block.get("model name") or os.environ.get("PROCESSOR_IDENTIFIER")  # the latter on Windows
        flags = frozenset((block.get("flags") or block.get("features") or "").lower().split())
        physical = _count_topology(root) or _count_cpuinfo(root) or _count_with_psutil(root)
    problems = [] if physical else ["CPU: the number of physical cores cannot be read"]
    if sys.platform == "linux" and not flags:
        problems.append("CPU: the instruction sets cannot be read from /proc/cpuinfo")
    cpu = CpuInfo(
        name=name,
        architecture=normalise_architecture(_machine()),
        physical_cores=physical,
        logical_cores=logical,
        affinity=_count_affinity(logical),
        quota=read_cpu_quota(root),
        isa_flags=flags,
    )
    return cpu, tuple(problems)


def _machine() -> str:
    if hasattr(os, "uname"):  # importing platform takes longer than the whole probe
        return os.uname().machine
    import platform

    return platform.machine()


def normalise_architecture(machine: str) -> str:
    """Return one name for each architecture: `x86_64`, `arm64`, or the lower-case name as it is."""
    lowered = machine.lower()
    return _ARCHITECTURES.get(lowered, lowered)


def _first_block(cpuinfo: str) -> dict[str, str]:
    """Return the first processor's lines of /proc/cpuinfo, keys in lower case."""
    block: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        if not line.strip():
            break
        key, _, value = line.partition(":")
        block[key.strip().lower()] = value.strip()
    return block


def _count_topology(root: Path) -> int | None:
    folder = root / "sys/devices/system/cpu"
    try:
        folders = [path for path in folder.iterdir() if path.name.startswith("cpu") and path.name[3:].isdecimal()]
    except OSError:
        return None
    siblings = {read_text(path / "topology/thread_siblings_list") for path in folders}
    siblings.discard(None)  # a core that is offline has no topology
    return len(siblings) or None


def _count_cpuinfo(root: Path) -> int | None:
    """Count (package, core) pairs, for kernels and sandboxes without topology files."""
    cores: set[tuple[str, str]] = set()
    for text in (read_text(root / "proc/cpuinfo") or "").split("\n\n"):
        block = _first_block(text.lstrip("\n"))
        if "core id" in block:
            cores.add((block.get("physical id", "0"), block["core id"]))
    return len(cores) or None


def _count_with_psutil(root: Path) -> int | None:
    if root != Path("/"):
        return None
    try:
        import psutil

        return psutil.cpu_count(logical=False)
    except Exception:  # noqa: BLE001 - a probe: whatever psutil cannot do here, the answer is "unknown"
        return None


def _count_affinity(logical: int) -> int:
    try:
        return len(os.sched_getaffinity(0)) or logical
    except (AttributeError, OSError):
        return logical


def _read_macos() -> tuple[str | None, frozenset[str], int | None]:
    from llmrun.hardware.macos import read_sysctl, translate_features

    name = (read_sysctl("machdep.cpu.brand_string") or b"").rstrip(b"\0").decode("utf-8", "replace")
    physical = int.from_bytes(read_sysctl("hw.physicalcpu") or b"", "little")
    return name or None, translate_features(read_sysctl), physical or None
