"""Say what would make llama-cpp faster on this machine, with the command that gets it.

Pure: everything that it needs to know is an argument. It never says that something is faster without a measurement.
"""

from collections.abc import Callable

from llmrun.engines.install.compilers import has_amx_bug
from llmrun.hardware.types import Accelerator, Compiler, GpuVendor, Machine, Toolchain

__all__ = ["advise", "find_compiler_command"]

_COMPILER_COMMANDS: tuple[tuple[str, str], ...] = (
    ("apt-get", "apt-get install clang-19 libomp-19-dev"),
    ("dnf", "dnf install clang libomp-devel"),
    ("zypper", "zypper install clang libomp-devel"),
    ("pacman", "pacman -S clang openmp"),
    ("apk", "apk add clang openmp-dev build-base"),
    ("brew", "brew install llvm libomp"),
)
_XCODE = "xcode-select --install"


def find_compiler_command(system: str, which: Callable[[str], str | None]) -> str:
    """Return the command that installs the best compiler with this machine's package manager."""
    if system == "darwin":
        return _XCODE
    for program, command in _COMPILER_COMMANDS:
        if which(program):
            return command
    return "install Clang 19 and LLVM's OpenMP runtime (libomp) with the system's package manager"


def advise(machine: Machine, toolchain: Toolchain, used: Compiler, accelerator: Accelerator | None, fix: str) -> str:
    """Return one sentence, or the empty string when this is the best that is known.

    Source of the ratios: the measurements in `compilers`.

    Args:
        machine: This machine.
        toolchain: What can compile here.
        used: The compiler that the build uses.
        accelerator: The GPU toolkit that the build uses.
        fix: The command from `find_compiler_command`.
    """
    missing_gpu = _advise_gpu(machine, toolchain, accelerator)
    if missing_gpu:
        return missing_gpu
    if machine.cpu.architecture != "x86_64" or (used.family != "gcc" and used.version >= (15,)):
        return ""
    if any(flag.startswith("amx_") for flag in machine.cpu.isa_flags) and has_amx_bug(used):
        return f"Clang 19 would be about 2x faster here in generation, 4x in prompt processing: {fix}"
    return f"Clang 19 would be about 1.2x faster here in prompt processing: {fix}"


def _advise_gpu(machine: Machine, toolchain: Toolchain, accelerator: Accelerator | None) -> str:
    if accelerator is not None:
        return ""
    vendors = {gpu.vendor: gpu.name for gpu in reversed(machine.gpus)}
    present = dict(toolchain.accelerators)
    if GpuVendor.NVIDIA in vendors and Accelerator.CUDA not in present:
        return f"the CUDA toolkit (nvcc) was not found; with it, llama-cpp would use the {vendors[GpuVendor.NVIDIA]}"
    if GpuVendor.AMD in vendors and Accelerator.ROCM not in present:
        return f"ROCm (hipcc) was not found; with it, llama-cpp would use the {vendors[GpuVendor.AMD]}"
    return ""
