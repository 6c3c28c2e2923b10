"""Decide how to build llama.cpp for a machine: first the fastest way, then ever safer ones.

A pure function of machine and toolchain, so it is tested as a table. `native` leaves the instruction sets to the
compiler; it is never chosen where the compiler is known to build code for this CPU that crashes (see `compilers`).
The fastest has llmrun's own kernels where the CPU can run them (`kernels/`, docs/kernels.md). The recipes after the
first are for a build that crashes, or computes something else, all the same when it is tried.
"""

from collections.abc import Iterator
from pathlib import Path

from llmrun.engines.install.compilers import has_amx_bug, rank_compilers, supports, uses_openmp
from llmrun.engines.install.types import KERNELS_OPTION, Recipe
from llmrun.errors import NoUsableEngineError, UsageError
from llmrun.hardware.types import Accelerator, Compiler, GpuVendor, Machine, Toolchain

__all__ = ["choose_accelerator", "choose_recipes"]

_LEFT_OUT = ("LLAVA_BUILD", "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TESTS")

# CMake's name of each x86 instruction set, and every CPU flag that it needs.
# Source: llama.cpp, ggml/src/ggml-cpu/CMakeLists.txt
_X86_SETS: tuple[tuple[str, frozenset[str]], ...] = (
    ("GGML_SSE42", frozenset({"sse4_2"})),
    ("GGML_AVX", frozenset({"avx"})),
    ("GGML_F16C", frozenset({"avx", "f16c"})),
    ("GGML_FMA", frozenset({"avx", "fma"})),
    ("GGML_BMI2", frozenset({"bmi2"})),
    ("GGML_AVX2", frozenset({"avx2"})),
    ("GGML_AVX_VNNI", frozenset({"avx2", "avx_vnni"})),
    ("GGML_AVX512", frozenset({"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"})),
    ("GGML_AVX512_VBMI", frozenset({"avx512f", "avx512bw", "avx512vbmi"})),
    ("GGML_AVX512_VNNI", frozenset({"avx512f", "avx512vnni_or_vnni"})),
    ("GGML_AVX512_BF16", frozenset({"avx512f", "avx512_bf16"})),
)
_PORTABLE_SETS = frozenset({"GGML_SSE42", "GGML_AVX", "GGML_F16C", "GGML_FMA", "GGML_BMI2", "GGML_AVX2"})
# What the kernels are written with; see the condition in kernels/buffer_type.cpp.
_KERNEL_SETS = ("GGML_AVX512", "GGML_AVX512_VNNI")
_AMX_SETS = ("GGML_AMX_TILE", "GGML_AMX_INT8", "GGML_AMX_BF16")
_TOOLKIT_NAMES = {
    Accelerator.CUDA: "the CUDA toolkit (nvcc)",
    Accelerator.ROCM: "ROCm (hipcc)",
    Accelerator.METAL: "Apple's command line tools (xcrun)",
    Accelerator.VULKAN: "the Vulkan SDK (glslc and vulkan/vulkan.h)",
}


def choose_recipes(
    machine: Machine,
    toolchain: Toolchain,
    *,
    accelerator: Accelerator | None = None,
    cpu_only: bool = False,
    kernels: bool = True,
) -> tuple[Recipe, ...]:
    """Return the ways to build, fastest first; every later one is for when the one before it crashes.

    Args:
        machine: Where it will run.
        toolchain: What can compile here.
        accelerator: Build for this kind of GPU; None: for what is found.
        cpu_only: Leave GPUs out.
        kernels: Add llmrun's own kernels where this CPU can run them.

    Raises:
        NoUsableEngineError: There is no compiler that can build llama.cpp.
        UsageError: The accelerator that was asked for has no toolkit here.
    """
    amx = any(flag.startswith("amx_") for flag in machine.cpu.isa_flags)
    ranked = rank_compilers(toolchain.compilers, amx=amx)
    if not ranked:
        raise NoUsableEngineError(_describe_missing(toolchain))
    compiler = ranked[0]
    toolkit = choose_accelerator(machine, toolchain, wanted=accelerator, cpu_only=cpu_only)
    recipes: list[Recipe] = []
    ways = list(_iterate_cpu_options(machine, compiler, amx=amx))
    if kernels and _can_have_kernels(machine, compiler):
        ways.insert(0, _with_kernels(*ways[0]))
    for name, options, reason in ways:
        gpu_options, variables = _accelerator_options(machine, toolchain, toolkit)
        common = (f"-DGGML_OPENMP={_on(uses_openmp(compiler))}", *(f"-D{option}=OFF" for option in _LEFT_OUT))
        recipes.append(
            Recipe(
                name=name,
                compiler=compiler,
                accelerator=toolkit,
                options=(*options, *gpu_options, *common),
                variables=variables,
                because=(f"{compiler.family} {_version(compiler)}", reason),
            )
        )
    return tuple(recipes)


def choose_accelerator(
    machine: Machine, toolchain: Toolchain, *, wanted: Accelerator | None, cpu_only: bool
) -> Accelerator | None:
    """Return the GPU toolkit to build with: the one asked for, else one for a GPU that is really there.

    Raises:
        UsageError: The accelerator that was asked for has no toolkit here.
    """
    present = dict(toolchain.accelerators)
    if wanted is not None:
        if wanted not in present:
            raise UsageError(
                f"--accelerator {wanted.value} needs {_TOOLKIT_NAMES[wanted]}, which was not found",
                fix="install it, or leave --accelerator out",
            )
        return wanted
    if cpu_only:
        return None
    vendors = {gpu.vendor for gpu in machine.gpus}
    by_preference = (
        (Accelerator.CUDA, {GpuVendor.NVIDIA}),
        (Accelerator.ROCM, {GpuVendor.AMD}),
        (Accelerator.METAL, {GpuVendor.APPLE}),
        # Not for Intel's: most are integrated ones that share the CPU's memory and lose against it.
        (Accelerator.VULKAN, {GpuVendor.NVIDIA, GpuVendor.AMD}),
    )
    return next((toolkit for toolkit, makers in by_preference if toolkit in present and makers & vendors), None)


def _iterate_cpu_options(
    machine: Machine, compiler: Compiler, *, amx: bool
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield (recipe name, options, reason), fastest first."""
    if not (amx and has_amx_bug(compiler)):
        yield "native", ("-DGGML_NATIVE=ON",), "every instruction set of this CPU"
    if machine.cpu.architecture != "x86_64":
        yield "portable", ("-DGGML_NATIVE=OFF",), "the oldest common instruction set"
        return
    named = tuple(option for option, needed in _X86_SETS if _has(machine, needed) and supports(compiler, option))
    if amx:
        reason = f"without AMX, which {compiler.family} {_version(compiler)} gets wrong"
        yield "no-amx", _named_options(named), reason if has_amx_bug(compiler) else "without AMX"
    yield "portable", _named_options(tuple(set(named) & _PORTABLE_SETS)), "without AVX-512 and AMX"


def _can_have_kernels(machine: Machine, compiler: Compiler) -> bool:
    if machine.cpu.architecture != "x86_64":
        return False
    return all(_has(machine, needed) and supports(compiler, name) for name, needed in _X86_SETS if name in _KERNEL_SETS)


def _with_kernels(name: str, options: tuple[str, ...], reason: str) -> tuple[str, tuple[str, ...], str]:
    return f"{name}-kernels", (*options, KERNELS_OPTION), f"{reason}, kernels of llmrun's own"


def _named_options(enabled: tuple[str, ...]) -> tuple[str, ...]:
    """Return an ON or OFF for every set, because the defaults of llama.cpp turn some of them on."""
    sets = (*(option for option, _ in _X86_SETS), *_AMX_SETS)
    return ("-DGGML_NATIVE=OFF", *(f"-D{option}={_on(option in enabled)}" for option in sets))


def _has(machine: Machine, needed: frozenset[str]) -> bool:
    flags = machine.cpu.isa_flags
    if "avx512vnni_or_vnni" in needed:  # Linux writes avx512_vnni, macOS avx512vnni
        return needed - {"avx512vnni_or_vnni"} <= flags and bool(flags & {"avx512_vnni", "avx512vnni"})
    return needed <= flags


def _accelerator_options(
    machine: Machine, toolchain: Toolchain, toolkit: Accelerator | None
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the CMake options and the environment variables of a GPU toolkit."""
    path = dict(toolchain.accelerators).get(toolkit, "") if toolkit else ""
    if toolkit is Accelerator.CUDA:
        capabilities = sorted({gpu.compute_capability for gpu in machine.gpus if gpu.compute_capability})
        architectures = ";".join(capability.replace(".", "") for capability in capabilities)
        chosen = (f"-DCMAKE_CUDA_ARCHITECTURES={architectures}",) if architectures else ()
        return ("-DGGML_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={path}", *chosen), ()
    if toolkit is Accelerator.ROCM:
        home = Path(path).resolve().parent.parent
        variables = (("HIP_PATH", str(home)), ("HIPCXX", str(home / "llvm/bin/clang")))
        return ("-DGGML_HIP=ON", f"-DCMAKE_PREFIX_PATH={home}"), variables
    if toolkit is Accelerator.VULKAN:
        return ("-DGGML_VULKAN=ON",), ()
    if toolkit is Accelerator.METAL:
        return ("-DGGML_METAL=ON",), ()
    return (), ()


def _describe_missing(toolchain: Toolchain) -> str:
    """Say what kind of compiler is wanted, and what was found instead."""
    found = [f"{compiler.family} {_version(compiler)}" for compiler in toolchain.compilers]
    found.extend(toolchain.problems)
    return (
        "llama-cpp is compiled for this machine, which needs Clang 14, GCC 9 or newer; "
        f"found {'; '.join(found) if found else 'no compiler'}"
    )


def _version(compiler: Compiler) -> str:
    return ".".join(str(part) for part in compiler.version)


def _on(value: bool) -> str:
    return "ON" if value else "OFF"
