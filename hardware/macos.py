"""Ask macOS about its processor and GPU through sysctl, in this process: no subprocess, and nothing is raised."""

import os
from collections.abc import Callable

from llmrun.hardware.types import GPU, GpuVendor, MemoryInfo

__all__ = ["estimate_metal_bytes", "probe_apple_gpus", "read_sysctl", "translate_features"]

# FEAT_ names of Apple's sysctl, and what Linux calls the same thing.
# Source: https://developer.apple.com/documentation/kernel/1387446-sysctlbyname/determining_instruction_set_characteristics
_ARM_FEATURES = {
    "AdvSIMD": "asimd",
    "arm.FEAT_DotProd": "asimddp",
    "arm.FEAT_FP16": "asimdhp",
    "arm.FEAT_BF16": "bf16",
    "arm.FEAT_I8MM": "i8mm",
    "arm.FEAT_SME": "sme",
}
_INTEL_RENAMES = {"avx1.0": "avx", "sse4.1": "sse4_1", "sse4.2": "sse4_2"}

# In GB/s. Of chips that were sold with two bandwidths (M3 Max, M4 Max) the smaller one.
# Source: Apple's technical specifications of the Macs with these chips, https://support.apple.com/specs
_BANDWIDTHS_GBPS = {
    "Apple M1": 68.25,
    "Apple M1 Pro": 200,
    "Apple M1 Max": 400,
    "Apple M1 Ultra": 800,
    "Apple M2": 100,
    "Apple M2 Pro": 200,
    "Apple M2 Max": 400,
    "Apple M2 Ultra": 800,
    "Apple M3": 100,
    "Apple M3 Pro": 150,
    "Apple M3 Max": 300,
    "Apple M3 Ultra": 819,
    "Apple M4": 120,
    "Apple M4 Pro": 273,
    "Apple M4 Max": 410,
}
_LARGEST_TWO_THIRDS_BYTES = 32 << 30


def read_sysctl(name: str) -> bytes | None:
    """Return the raw value of a sysctl, or None where there is no such thing."""
    import ctypes

    try:
        sysctl = ctypes.CDLL(None).sysctlbyname
    except (OSError, AttributeError, TypeError):
        return None
    size = ctypes.c_size_t(0)
    key = name.encode()
    if sysctl(key, None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0 or not 0 < size.value <= 65536:
        return None
    buffer = ctypes.create_string_buffer(size.value)
    if sysctl(key, buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return buffer.raw[: size.value]


def translate_features(read: Callable[[str], bytes | None]) -> frozenset[str]:
    """Return the instruction-set flags in Linux's names."""
    flags = {
        linux for apple, linux in _ARM_FEATURES.items() if int.from_bytes(read(f"hw.optional.{apple}") or b"", "little")
    }
    for key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
        names = (read(key) or b"").rstrip(b"\0").decode("ascii", "replace").lower().split()
        flags.update(_INTEL_RENAMES.get(name, name) for name in names)
    return frozenset(flags)


def probe_apple_gpus(
    read: Callable[[str], bytes | None] | None = None, memory: MemoryInfo | None = None
) -> tuple[GPU, ...]:
    """Return the GPU of an Apple processor, which works on the main memory; none on Macs with an Intel processor.

    Python under Rosetta says that the processor is Intel's; `hw.optional.arm64` tells the truth there too.
    """
    read = read or read_sysctl
    if not int.from_bytes(read("hw.optional.arm64") or b"", "little") and not _is_arm():
        return ()
    names = (_decode(read(key)) for key in ("machdep.cpu.brand_string", "hw.model"))
    total = int.from_bytes(read("hw.memsize") or b"", "little") or (memory.total_bytes if memory else 0)
    wired_mebibytes = int.from_bytes(read("iogpu.wired_limit_mb") or b"", "little")
    free = min(total, wired_mebibytes << 20) if wired_mebibytes else estimate_metal_bytes(total)
    if memory is not None and memory.total_bytes:
        free = min(free, memory.available_bytes)
    name = next((name for name in names if name), "Apple GPU")
    bandwidth = _BANDWIDTHS_GBPS.get(name)
    return (
        GPU(
            vendor=GpuVendor.APPLE,
            name=name,
            total_bytes=total or None,
            free_bytes=free if total else None,
            memory_bandwidth_bytes_per_second=bandwidth * 1e9 if bandwidth else None,
            unified_memory=True,
        ),
    )


def estimate_metal_bytes(total_bytes: int) -> int:
    """Return how much of the main memory Metal recommends to use: two thirds up to 32 GiB, three quarters above.

    Source: recommendedMaxWorkingSetSize as llama.cpp reports it: 10,922 MiB of 16 GiB, 21,845 of 32 GiB, 49,152 of
    64 GiB, 73,728 of 96 GiB. The user can set another limit (sysctl iogpu.wired_limit_mb), which is read first.
    """
    return total_bytes * 2 // 3 if total_bytes <= _LARGEST_TWO_THIRDS_BYTES else total_bytes * 3 // 4


def _is_arm() -> bool:
    return hasattr(os, "uname") and os.uname().machine == "arm64"


def _decode(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode("utf-8", "replace").strip()
