"""Which GPUs this machine has, without importing an engine.

NVIDIA answers through NVML (a library that comes with its driver), AMD and Intel through /sys, Apple through sysctl.
NVML can hang for ever on a broken driver, so it is asked in a thread that is given up on after a time.
Nothing is raised: a GPU that does not answer becomes a sentence in `problems`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrun.hardware.drm import iterate_drm_gpus
from llmrun.hardware.types import GPU, GpuVendor, MemoryInfo

if TYPE_CHECKING:
    import threading

__all__ = ["NVML_TIMEOUT_SECONDS", "probe_gpus"]

NVML_TIMEOUT_SECONDS = 8.0  # a driver without persistence mode needs a second or two per GPU to wake up
_NVIDIA_MARKERS = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg")  # dxg: Windows' subsystem for Linux
_PLAUSIBLE_BANDWIDTH = (1e9, 1e14)  # bytes per second; some drivers answer 0 for what they do not know
_given_up: "list[threading.Thread]" = []  # those that NVML has not answered: it is not asked again while it hangs


def probe_gpus(
    root: Path = Path("/"),
    timeout_seconds: float = NVML_TIMEOUT_SECONDS,
    memory: MemoryInfo | None = None,
) -> tuple[tuple[GPU, ...], tuple[str, ...]]:
    """Return the GPUs, and a sentence for everything that could not be read.

    `memory` is what the machine has, for GPUs that work on it.
    """
    if sys.platform == "darwin":
        from llmrun.hardware.macos import probe_apple_gpus

        return probe_apple_gpus(memory=memory), ()
    gpus: list[GPU] = []
    problems: list[str] = []
    if sys.platform != "linux" or any((root / marker).exists() for marker in _NVIDIA_MARKERS):
        nvidia, nvidia_problems = _probe_nvidia(timeout_seconds, memory)
        gpus.extend(nvidia)
        problems.extend(nvidia_problems)
    gpus.extend(iterate_drm_gpus(root))
    return tuple(gpus), tuple(problems)


def _probe_nvidia(timeout_seconds: float, memory: MemoryInfo | None) -> tuple[list[GPU], list[str]]:
    import threading

    hangs = f"NVML: no answer within {timeout_seconds:g} s; NVIDIA GPUs are left out"
    if any(thread.is_alive() for thread in _given_up):
        return [], [hangs]
    gpus: list[GPU] = []
    problems: list[str] = []
    thread = threading.Thread(target=_ask_nvml, args=(gpus, problems, memory), name="nvml", daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if thread.is_alive():
        _given_up[:] = [thread]
        return [], [hangs]
    return gpus, problems


def _ask_nvml(gpus: list[GPU], problems: list[str], main_memory: MemoryInfo | None) -> None:
    try:
        import pynvml

        pynvml.nvmlInit()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        cuda = _cuda_version(pynvml)
        count = int(pynvml.nvmlDeviceGetCount())
    except Exception as error:  # noqa: BLE001 - a probe: no driver, no library
        problems.append(f"NVML: {error or type(error).__name__}")
        return
    for index in range(count):
        try:
            gpus.append(_read_nvidia(pynvml, index, driver, cuda, main_memory))
        except Exception as error:  # noqa: BLE001 - a probe: a GPU that fell off the bus; the others may be well
            problems.append(f"NVML: GPU {index}: {error or type(error).__name__}")


def _read_nvidia(pynvml: Any, index: int, driver: str, cuda: str | None, main_memory: MemoryInfo | None) -> GPU:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    total, free, unified = _read_nvidia_memory(pynvml, handle, main_memory)
    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        capability = f"{major}.{minor}"
    except pynvml.NVMLError:
        capability = None
    return GPU(
        vendor=GpuVendor.NVIDIA,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        total_bytes=total,
        free_bytes=free,
        compute_capability=capability,
        driver=driver,
        cuda_version=cuda,
        memory_bandwidth_bytes_per_second=_read_nvidia_bandwidth(pynvml, handle),
        unified_memory=unified,
    )


def _read_nvidia_memory(
    pynvml: Any, handle: Any, main_memory: MemoryInfo | None
) -> tuple[int | None, int | None, bool]:
    """Return total bytes, free bytes, and whether that is the main memory.

    A GPU that has no memory of its own (Jetson, GB10) answers "not supported".
    Source: https://docs.nvidia.com/dgx/dgx-spark/known-issues.html (nvidia-smi: "Memory-Usage: Not Supported")
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        unified = type(error).__name__ == "NVMLError_NotSupported"
        if not unified or main_memory is None or not main_memory.total_bytes:
            return None, None, unified
        return main_memory.total_bytes, main_memory.available_bytes, True
    return int(memory.total), int(memory.free), False


def _read_nvidia_bandwidth(pynvml: Any, handle: Any) -> float | None:
    """Return bus width · memory clock · 2 transfers per clock, or None where the driver does not say.

    For an RTX 4090: 384 bits · 10,501 MHz · 2 = 1,008 GB/s, the figure NVIDIA publishes.
    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html (nvmlDeviceGetMemoryBusWidth)
    """
    try:
        bus_bits = int(pynvml.nvmlDeviceGetMemoryBusWidth(handle))
        clock_megahertz = int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))
    except (pynvml.NVMLError, AttributeError):
        return None
    bandwidth = bus_bits / 8 * clock_megahertz * 1e6 * 2
    lowest, highest = _PLAUSIBLE_BANDWIDTH
    return bandwidth if lowest <= bandwidth <= highest else None


def _cuda_version(pynvml: Any) -> str | None:
    try:
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except (pynvml.NVMLError, AttributeError):
        return None
    return f"{version // 1000}.{version % 1000 // 10}"


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
