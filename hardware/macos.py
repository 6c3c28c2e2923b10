"""Ask macOS about its processor and memory through sysctl, in this process: no subprocess, and nothing is raised."""

from collections.abc import Callable

__all__ = ["read_sysctl", "translate_features"]

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
