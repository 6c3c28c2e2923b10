"""Which tensor types llama.cpp has fast kernels for on a processor, and how fast one core of it reads each type.

A weight is read once for every token, but not at the speed of memory: its kernel unpacks it first. llama.cpp has four
kinds of kernels, and which one a tensor gets is settled by its type and the instruction sets of the processor:
the matrix unit (AMX); *repacked* ones, for which eight or four rows are interleaved when the model is loaded; plain
dot products of one row; and scalar code. llmrun's builds add kernels of their own for AVX-512 VNNI, which come before
the repacked ones (docs/kernels.md). A type without one of these may be slower than a larger one with it.

The rates are measurements of one processor. Other processors get them by a factor for their instruction sets, of which
two are measured (`AMX`, `AVX512_VNNI`) and the others assumed from the width of their registers and from whether they
multiply bytes in one instruction. So order and cause are to be trusted; tokens per second are within a third or so.

Sources: llama.cpp of llama-cpp-python 0.3.36, ggml/src/ggml-cpu: `ggml_repack_get_optimal_repack_type` in repack.cpp,
`qtype_has_amx_kernels` in amx/common.h, the branches of `ggml_vec_dot_*` in arch/x86/quants.c and arch/arm/quants.c.
"""

from dataclasses import dataclass
from enum import StrEnum

from llmrun.hardware.types import CpuInfo

__all__ = [
    "NO_KERNELS",
    "Kernel",
    "decode_rate",
    "fast_kernels",
    "find_kernel",
    "limit_instructions",
    "own_kernels",
    "prefill_rate",
]

NO_KERNELS: frozenset[str] = frozenset()
"""The types for which a build without llmrun's kernels has one."""


class Kernel(StrEnum):
    """How llama.cpp multiplies by a tensor of some type, fastest first."""

    AMX = "amx"
    OWN = "llmrun"
    """Repacked too, by the kernels that llmrun adds to its builds."""
    REPACKED = "repacked"
    DIRECT = "direct"
    """Nothing to unpack: the numbers are multiplied as they are stored."""
    DOT_PRODUCT = "dot-product"
    SCALAR = "scalar"


_FAST = frozenset({Kernel.AMX, Kernel.OWN, Kernel.REPACKED, Kernel.DIRECT})
_OWN_TYPES = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"})
_OWN_SETS = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})
_AMX_TYPES = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"})
_AVX2_REPACKED = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
_AVX512_REPACKED = _AVX2_REPACKED | {"Q2_K"}
_ARM_REPACKED = frozenset({"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q1_0"})
_DIRECT = frozenset({"F32", "F16", "BF16", "Q8_0"})
_AVX2_ONLY = frozenset({"TQ1_0", "TQ2_0"})
_ALWAYS_SCALAR = frozenset({"F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"})

_GB = 1e9
# Bytes of weights that one core reads in a second while generating, with the memory's own time taken out, and
# operations a second of one core in a prompt of 256 tokens. Best of many short runs; AMD EPYC (Zen 4, AVX-512 VNNI, 2
# cores), llama-cpp-python 0.3.36 built by Clang 19, random models of width 1024 with 24 layers and with one.
_DECODE_RATES = {
    "F32": 40 * _GB,
    "F16": 40 * _GB,
    "BF16": 42 * _GB,
    "Q8_0": 28 * _GB,
    "Q6_K": 25 * _GB,
    "Q5_K": 17 * _GB,
    "Q5_1": 11 * _GB,
    "Q5_0": 11 * _GB,
    "Q4_K": 30 * _GB,
    "Q4_1": 10.4 * _GB,
    "Q4_0": 26 * _GB,
    "IQ4_NL": 25 * _GB,
    "IQ4_XS": 12 * _GB,
    "MXFP4": 18 * _GB,
    "Q3_K": 9.5 * _GB,
    "Q2_K": 16 * _GB,
    "TQ2_0": 13 * _GB,
}
_PREFILL_RATES = {
    "F32": 86e9,
    "F16": 85e9,
    "BF16": 134e9,
    "Q8_0": 96e9,
    "Q6_K": 179e9,
    "Q5_K": 180e9,
    "Q5_1": 38e9,
    "Q5_0": 76e9,
    "Q4_K": 154e9,
    "Q4_1": 46e9,
    "Q4_0": 118e9,
    "IQ4_NL": 116e9,
    "IQ4_XS": 185e9,
    "MXFP4": 116e9,
    "Q3_K": 177e9,
    "Q2_K": 158e9,
    "TQ2_0": 103e9,
}
# The same of llmrun's kernels, on the same processor and models.
_OWN_DECODE_RATES = {"Q4_0": 70 * _GB, "Q4_1": 55 * _GB, "Q5_0": 48 * _GB, "Q5_1": 48 * _GB, "Q8_0": 90 * _GB}
_OWN_PREFILL_RATES = {"Q4_0": 250e9, "Q4_1": 240e9, "Q5_0": 250e9, "Q5_1": 230e9, "Q8_0": 250e9}
_UNPACKED_RATE = 11 * _GB  # a dot product that unpacks small blocks: Q4_1, Q5_0 and Q5_1 measured alike
_TABLE_RATE = 3.9 * _GB  # types that look their weights up in large tables (IQ1, IQ2, IQ3); measured with IQ3_S
_TABLE_PREFILL_RATE = 157e9  # in a prompt each is looked up once for all tokens
_OTHER_PREFILL_RATE = 40e9
# Q8_0 and Q4_0 in prompts of 128 tokens on two cores of a Sapphire Rapids: 651 and 583 tokens/s of a model with 0.36e9
# weights outside its embedding.
_AMX_PREFILL_RATE = 220e9
_SCALAR_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class _Core:
    """One core in relation to the measured one: kernels with wide instructions, plain dot products, prefill."""

    fast: float
    plain: float
    prefill: float


# The first whose flags are all there. Measured: AMX (Qwen2.5-Coder-0.5B on two cores of a Sapphire Rapids: Q8_0 41
# tokens/s, Q4_0 60, both near its 25.6 GB/s, and 30 of a Q4_K_M that is mostly Q5_0) and AVX-512 VNNI. Others assumed.
_X86_CORES = (
    ({"amx_int8", "avx512_vnni"}, _Core(0.75, 0.4, 0.6)),
    ({"avx512_vnni"}, _Core(1.0, 1.0, 1.0)),
    ({"avx2", "avx_vnni"}, _Core(0.9, 0.8, 0.6)),
    ({"avx512f"}, _Core(0.7, 0.6, 0.6)),
    ({"avx2"}, _Core(0.7, 0.6, 0.4)),
    ({"avx"}, _Core(0.25, 0.2, 0.1)),
    (set[str](), _Core(0.1, 0.1, 0.05)),
)
_ARM_CORES = (
    ({"asimddp", "i8mm"}, _Core(0.8, 0.6, 0.5)),
    ({"asimddp"}, _Core(0.4, 0.3, 0.2)),
    (set[str](), _Core(0.2, 0.2, 0.1)),
)
_BEYOND_AVX2 = ("avx512", "amx", "avx_vnni", "i8mm", "sve", "sme")


def limit_instructions(cpu: CpuInfo) -> CpuInfo:
    """Return the processor as an engine sees it that was built for many: with AVX2, or Arm's dot products, at most."""
    from dataclasses import replace

    return replace(cpu, isa_flags=frozenset(flag for flag in cpu.isa_flags if not flag.startswith(_BEYOND_AVX2)))


def own_kernels(cpu: CpuInfo) -> frozenset[str]:
    """Return the types for which a build that llmrun makes for this processor has kernels of llmrun's own."""
    return _OWN_TYPES if cpu.architecture == "x86_64" and cpu.isa_flags >= _OWN_SETS else NO_KERNELS


def fast_kernels(cpu: CpuInfo, own: frozenset[str] = NO_KERNELS) -> frozenset[str]:
    """Return the tensor types with a kernel for the matrix unit, a repacked one, or nothing to unpack."""
    return frozenset(
        name for name in _DECODE_RATES.keys() | _ARM_REPACKED | _AMX_TYPES | own if find_kernel(name, cpu, own) in _FAST
    )


def find_kernel(type_name: str, cpu: CpuInfo, own: frozenset[str] = NO_KERNELS, *, repack: bool = True) -> Kernel:
    """Return the kernel for a tensor type.

    Args:
        type_name: Its name.
        cpu: The processor.
        own: The types for which the build has kernels of llmrun's own.
        repack: False for an engine from before the repacked ones.
    """
    flags = cpu.isa_flags
    if type_name in _ALWAYS_SCALAR:
        return Kernel.SCALAR
    if repack and {"amx_int8", "avx512_vnni"} <= flags and type_name in _AMX_TYPES:
        return Kernel.AMX
    if repack and type_name in own:
        return Kernel.OWN
    if repack and type_name in _repacked(cpu):
        return Kernel.REPACKED
    wide = "avx2" in flags or "asimddp" in flags
    if type_name in _DIRECT and wide:
        return Kernel.DIRECT
    some = "avx" in flags or "asimd" in flags
    if not some or (type_name in _AVX2_ONLY and not ({"avx2", "asimd"} & flags)):
        return Kernel.SCALAR
    return Kernel.DOT_PRODUCT


def decode_rate(type_name: str, cpu: CpuInfo, own: frozenset[str] = NO_KERNELS, *, repack: bool = True) -> float:
    """Return the bytes of such weights that one core takes in a second when memory does not hold it up."""
    kernel = find_kernel(type_name, cpu, own, repack=repack)
    core = _find_core(cpu)
    if kernel is Kernel.OWN:
        return _OWN_DECODE_RATES[type_name] * core.fast
    rate = _DECODE_RATES.get(type_name, _TABLE_RATE if type_name.startswith("IQ") else _UNPACKED_RATE)
    if kernel in _FAST:
        return (max(rate, _DECODE_RATES["Q4_0"]) if kernel is Kernel.AMX else rate) * core.fast
    if type_name in _AVX512_REPACKED:
        rate = min(rate, _UNPACKED_RATE)  # measured repacked, which it is not here
    return rate * (core.plain if kernel is Kernel.DOT_PRODUCT else _SCALAR_SHARE)


def prefill_rate(type_name: str, cpu: CpuInfo, own: frozenset[str] = NO_KERNELS, *, repack: bool = True) -> float:
    """Return the operations (two for each weight and token) of one core in a second while it reads a prompt."""
    kernel = find_kernel(type_name, cpu, own, repack=repack)
    if kernel is Kernel.AMX:
        return _AMX_PREFILL_RATE
    rate = _PREFILL_RATES.get(type_name, _TABLE_PREFILL_RATE if type_name.startswith("IQ") else _OTHER_PREFILL_RATE)
    if kernel is Kernel.OWN:
        rate = _OWN_PREFILL_RATES[type_name]
    if not repack:
        rate = min(rate, _OTHER_PREFILL_RATE)
    return rate * (_SCALAR_SHARE if kernel is Kernel.SCALAR else _find_core(cpu).prefill)


def _repacked(cpu: CpuInfo) -> frozenset[str]:
    if cpu.architecture == "arm64":
        return _ARM_REPACKED if "asimddp" in cpu.isa_flags else frozenset()
    if "avx512f" in cpu.isa_flags:
        return _AVX512_REPACKED
    return _AVX2_REPACKED if "avx2" in cpu.isa_flags else frozenset()


def _find_core(cpu: CpuInfo) -> _Core:
    cores = _ARM_CORES if cpu.architecture == "arm64" else _X86_CORES
    return next(core for flags, core in cores if flags <= cpu.isa_flags)
