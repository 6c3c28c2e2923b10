"""Which GPUs this machine has, without importing an engine.

NVIDIA answers through NVML (a library that comes with its driver), AMD and Intel through /sys, Apple through its
architecture. NVML can hang for ever on a broken driver, so it is asked in a thread that is given up on after a time.
Nothing is raised: a GPU that does not answer becomes a sentence in `problems`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrun.hardware.sysfiles import read_int, read_text
from llmrun.hardware.types import GPU, GpuVendor

__all__ = ["NVML_TIMEOUT_SECONDS", "probe_gpus"]

NVML_TIMEOUT_SECONDS = 8.0  # a driver without persistence mode needs a second or two per GPU to wake up
_NVIDIA_MARKERS = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg")  # dxg: Windows' subsystem for Linux
_PCI_VENDORS = {"0x1002": GpuVendor.AMD, "0x8086": GpuVendor.INTEL}


def probe_gpus(
    root: Path = Path("/"), timeout_seconds: float = NVML_TIMEOUT_SECONDS
) -> tuple[tuple[GPU, ...], tuple[str, ...]]:
    """Return the GPUs, and a sentence for everything that could not be read."""
    if sys.platform == "darwin":
        return _probe_apple(), ()
    gpus: list[GPU] = []
    problems: list[str] = []
    if sys.platform != "linux" or any((root / marker).exists() for marker in _NVIDIA_MARKERS):
        nvidia, nvidia_problems = _probe_nvidia(timeout_seconds)
        gpus.extend(nvidia)
        problems.extend(nvidia_problems)
    gpus.extend(_iterate_drm(root))
    return tuple(gpus), tuple(problems)


def _probe_nvidia(timeout_seconds: float) -> tuple[list[GPU], list[str]]:
    import threading

    gpus: list[GPU] = []
    problems: list[str] = []
    thread = threading.Thread(target=_ask_nvml, args=(gpus, problems), name="nvml", daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if thread.is_alive():
        return [], [f"NVML: no answer within {timeout_seconds:g} s; NVIDIA GPUs are left out"]
    return gpus, problems


def _ask_nvml(gpus: list[GPU], problems: list[str]) -> None:
    try:
        import pynvml

        pynvml.nvmlInit()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        cuda = _cuda_version(pynvml)
        gpus.extend(_read_nvidia(pynvml, index, driver, cuda) for index in range(pynvml.nvmlDeviceGetCount()))
    except Exception as error:  # noqa: BLE001 - a probe: no driver, no library, a GPU that fell off the bus
        problems.append(f"NVML: {error or type(error).__name__}")


def _read_nvidia(pynvml: Any, index: int, driver: str, cuda: str | None) -> GPU:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    total: int | None = None
    free: int | None = None
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError:  # some integrated GPUs share the main memory and have no answer
        pass
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
    )


def _cuda_version(pynvml: Any) -> str | None:
    try:
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except (pynvml.NVMLError, AttributeError):
        return None
    return f"{version // 1000}.{version % 1000 // 10}"


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _iterate_drm(root: Path) -> Iterator[GPU]:
    """Yield the AMD and Intel GPUs that the kernel's display drivers know."""
    try:
        cards = sorted(path for path in (root / "sys/class/drm").iterdir() if path.name.removeprefix("card").isdigit())
    except OSError:
        return
    for card in cards:
        device = card / "device"
        vendor = _PCI_VENDORS.get((read_text(device / "vendor") or "").strip())
        if vendor is None:
            continue
        total = read_int(device / "mem_info_vram_total") or read_int(card / "lmem_total_bytes")
        used = read_int(device / "mem_info_vram_used")
        name = (read_text(device / "product_name") or "").strip()
        yield GPU(
            vendor=vendor,
            name=name or f"{vendor.value} GPU {(read_text(device / 'device') or '').strip()}".strip(),
            total_bytes=total,
            free_bytes=max(0, total - used) if total is not None and used is not None else None,
            driver=(read_text(root / "sys/module/amdgpu/version") or "").strip() or None,
        )


def _probe_apple() -> tuple[GPU, ...]:
    import platform

    from llmrun.hardware.macos import read_sysctl

    if platform.machine() != "arm64":
        return ()
    name = (read_sysctl("machdep.cpu.brand_string") or b"Apple GPU").rstrip(b"\0").decode("utf-8", "replace")
    return (GPU(vendor=GpuVendor.APPLE, name=name, total_bytes=None, free_bytes=None),)
