"""Which compiler to build llama.cpp with, and what each can be trusted with.

The build decides the speed, and one combination of compiler and CPU builds code that crashes. Measured with SmolLM2
Q4_1 on 2 threads, prompt processing / generation in tokens/s:

- Sapphire Rapids, with AMX: GCC 12.2 (which must do without AMX) 130-245 / 72-99, Clang 19 560-850 / 150-212;
- Zen 4, without AMX: GCC 12.2 299-338 / 101-113, Clang 19 363-381 / 106-112.
"""

from collections.abc import Iterable

from llmrun.hardware.types import Compiler

__all__ = ["has_amx_bug", "is_usable", "rank_compilers", "supports", "uses_openmp"]

_MINIMUM = {"clang": (14,), "apple-clang": (13,), "gcc": (9,)}  # C++17 with <filesystem>, and AVX-512 vector types
_GOOD_CLANG = (15,)

# First version of each family that knows an instruction set of `recipe`; everything else is known to all of them.
# Source: https://gcc.gnu.org/gcc-10/changes.html, gcc-11/changes.html; https://releases.llvm.org/12.0.0/tools/clang/docs
_SINCE: dict[str, dict[str, tuple[int, ...]]] = {
    "GGML_AVX512_BF16": {"gcc": (10,), "clang": (9,), "apple-clang": (12,)},
    "GGML_AVX_VNNI": {"gcc": (11,), "clang": (12,), "apple-clang": (13,)},
}


def is_usable(compiler: Compiler) -> bool:
    """Return whether the compiler is recent enough for llama.cpp."""
    minimum = _MINIMUM.get(compiler.family)
    return minimum is not None and compiler.version >= minimum


def has_amx_bug(compiler: Compiler) -> bool:
    """Return whether native code from this compiler crashes on a CPU with AMX.

    GCC before 12.4 and 13.3 passes 8 of the 64 bytes of a tile configuration to `ldtilecfg` (its `_tile_loadconfig`
    lacks a memory clobber), so that the program's configuration is optimised away and the first `tileloadd` is an
    illegal instruction. Older major versions were not mended.
    """
    if compiler.family != "gcc":
        return False
    return not (compiler.version >= (13, 3) or (12, 4) <= compiler.version < (13,))


def supports(compiler: Compiler, option: str) -> bool:
    """Return whether the compiler can emit the instruction set behind a CMake option."""
    since = _SINCE.get(option, {}).get(compiler.family, (0,))
    return compiler.version >= since


def rank_compilers(compilers: Iterable[Compiler], *, amx: bool) -> tuple[Compiler, ...]:
    """Return the usable compilers, best first.

    A recent Clang is best, with LLVM's OpenMP runtime before without; an older Clang comes before a GCC only where the
    CPU has AMX and that GCC cannot be trusted with it.
    """

    def preference(compiler: Compiler) -> tuple[int, tuple[int, ...]]:
        if compiler.family == "gcc":
            rank = 4 if amx and has_amx_bug(compiler) else 2
        elif compiler.family == "clang" and compiler.version < _GOOD_CLANG:
            rank = 3
        else:
            rank = 0 if compiler.openmp or compiler.family == "apple-clang" else 1
        return rank, tuple(-part for part in compiler.version)

    return tuple(sorted((compiler for compiler in compilers if is_usable(compiler)), key=preference))


def uses_openmp(compiler: Compiler) -> bool:
    """Return whether to build with OpenMP rather than with ggml's own threads.

    LLVM's runtime is as fast as ggml's threads or faster. GCC's (libgomp) is a little slower than they are, and it was
    seen to fall to a hundredth of its speed when another process keeps a core busy, because its barriers spin.
    """
    return compiler.openmp == "libomp"
