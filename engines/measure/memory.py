"""How much memory a process and everything it started took at its peak, as the system itself keeps count.

Linux notes the peak of every process, so that nothing has to be sampled while an engine computes. The peaks of several
processes are added: an upper bound of their common peak. Mapped files count as far as they were read, and memory that
processes share counts for each of them. Elsewhere the present size is all that can be seen.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["gpu_memory", "process_tree", "reset_peak", "tree_peak"]

_PROC = Path("/proc")


def process_tree(pid: int) -> list[int]:
    """Return a process and all that descend from it, as far as they are alive."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def tree_peak(pids: Sequence[int]) -> int:
    """Return the sum of the peak resident sizes, in bytes."""
    return sum(_peak(pid) for pid in pids)


def reset_peak(pids: Sequence[int]) -> None:
    """Begin to look for a new peak.

    Source: proc_pid_clear_refs(5): 5 resets the peak resident set size to the current one.
    """
    for pid in pids:
        with contextlib.suppress(OSError):
            (_PROC / str(pid) / "clear_refs").write_text("5")


def _peak(pid: int) -> int:
    try:
        for line in (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def gpu_memory(nvml: Any, pids: Sequence[int]) -> int | None:
    """Return what these processes hold of the memory of NVIDIA GPUs, in bytes; None without NVML."""
    if nvml is None:
        return None
    total, wanted = 0, set(pids)
    try:
        for index in range(int(nvml.nvmlDeviceGetCount())):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid in wanted:
                    total += int(process.usedGpuMemory or 0)
    except nvml.NVMLError:
        return None
    return total
