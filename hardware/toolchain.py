"""Which compilers and GPU toolkits this machine has. It runs them, so verifying them takes a second or two.

A compiler counts only if it really compiles and links a C++17 program with the standard library: a Clang without
libstdc++ headers answers `--version` and can build nothing. An OpenMP runtime counts only if a program links with it.
Nothing is raised; what was found and cannot be used becomes a sentence in `Toolchain.problems`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from llmrun.hardware.types import Accelerator, Compiler, Toolchain

__all__ = ["parse_compiler_version", "probe_toolchain"]

_TIMEOUT_SECONDS = 30.0
_C_COMPILER = re.compile(r"^(clang|gcc)(-\d+(\.\d+)*)?$")
_CXX17_PROGRAM = "#include <filesystem>\n#include <string>\nint main() { return (int) std::string().size(); }\n"
_OPENMP_PROGRAM = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"


def probe_toolchain(environment: Mapping[str, str] | None = None, *, verify: bool = True) -> Toolchain:
    """Find compilers, GPU toolkits, CMake and Ninja.

    Args:
        environment: Its PATH is searched; when it names CC and CXX, they are the only compiler. Default: this
            process's.
        verify: Build a program with each compiler. Without it, the compilers are only asked for their version, which
            takes milliseconds; nothing is known of OpenMP then.
    """
    env = os.environ if environment is None else environment
    path = env.get("PATH", os.defpath)
    compilers: list[Compiler] = []
    problems: list[str] = []
    seen: set[str] = set()
    for cc, cxx in _iterate_pairs(env, path):
        real = os.path.realpath(cc)
        if real not in seen:
            seen.add(real)
            found = _probe_compiler(cc, cxx, verify=verify)
            if isinstance(found, Compiler):
                compilers.append(found)
            else:
                problems.append(found)
    accelerators = tuple(_iterate_accelerators(env, path))
    return Toolchain(
        compilers=tuple(compilers),
        accelerators=accelerators,
        cuda_version=_cuda_version(dict(accelerators).get(Accelerator.CUDA)),
        cmake=shutil.which("cmake", path=path),
        ninja=shutil.which("ninja", path=path),
        problems=tuple(problems),
    )


def parse_compiler_version(output: str) -> tuple[str, tuple[int, ...]] | None:
    """Return family and version from the text of `--version`, or None if it is no C compiler that we know."""
    match = re.search(r"(Apple )?clang version (\d+(?:\.\d+)*)", output)
    if match:
        return ("apple-clang" if match[1] else "clang"), _numbers(match[2])
    first = output.partition("\n")[0]
    match = re.search(r"\) (\d+(?:\.\d+)+)", first)
    if match and ("Free Software Foundation" in output or "gcc" in first.lower()):
        return "gcc", _numbers(match[1])
    return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _iterate_pairs(env: Mapping[str, str], path: str) -> Iterator[tuple[str, str]]:
    """Yield (C, C++) compiler paths: the user's own choice, or everything named like one on PATH."""
    if env.get("CC") and env.get("CXX"):
        cc, cxx = (shutil.which(env[name], path=path) for name in ("CC", "CXX"))
        if cc and cxx:
            yield cc, cxx
        return
    for folder in dict.fromkeys(path.split(os.pathsep)):
        try:
            names = sorted(entry.name for entry in Path(folder or ".").iterdir() if _C_COMPILER.match(entry.name))
        except OSError:
            continue
        for name in names:
            cxx = shutil.which(name.replace("clang", "clang++").replace("gcc", "g++"), path=folder)
            if cxx:
                yield str(Path(folder, name)), cxx


def _cuda_version(nvcc: str | None) -> str | None:
    """Return the release that nvcc says it is of: `13.0`."""
    match = re.search(r"release (\d+\.\d+)", _run([nvcc, "--version"])[1]) if nvcc else None
    return match[1] if match else None


def _probe_compiler(cc: str, cxx: str, *, verify: bool) -> Compiler | str:
    """Return the compiler, or why it cannot be used."""
    code, output = _run([cc, "--version"])
    parsed = parse_compiler_version(output) if code == 0 else None
    if parsed is None:
        return f"{cc} does not say which compiler it is"
    family, version = parsed
    if not verify:
        return Compiler(family=family, version=version, cc=cc, cxx=cxx, openmp=None)
    code, output = _compile(cxx, _CXX17_PROGRAM, ["-std=c++17"])
    if code != 0:
        cause = next((line for line in output.splitlines() if "error" in line), output.strip() or "no message")
        return f"{cxx} cannot build a C++17 program: {cause.strip()}"
    flags = {"libgomp": ["-fopenmp"]} if family == "gcc" else {"libomp": ["-fopenmp=libomp"]}
    openmp = next((name for name, flag in flags.items() if _compile(cxx, _OPENMP_PROGRAM, flag)[0] == 0), None)
    return Compiler(family=family, version=version, cc=cc, cxx=cxx, openmp=openmp)


def _compile(cxx: str, program: str, flags: list[str]) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="llmrun-") as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(program)
        return _run([cxx, *flags, str(source), "-o", str(Path(folder, "probe"))])


def _run(command: list[str]) -> tuple[int, str]:
    """Return the exit status and all output; 127 when it cannot be run or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SECONDS,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout


def _iterate_accelerators(env: Mapping[str, str], path: str) -> Iterator[tuple[Accelerator, str]]:
    nvcc = _which("nvcc", path, env.get("CUDA_HOME"), env.get("CUDA_PATH"), "/usr/local/cuda")
    if nvcc:
        yield Accelerator.CUDA, nvcc
    hipcc = _which("hipcc", path, env.get("ROCM_PATH"), env.get("HIP_PATH"), "/opt/rocm")
    if hipcc:
        yield Accelerator.ROCM, hipcc
    if sys.platform == "darwin" and (xcrun := shutil.which("xcrun", path=path)):
        yield Accelerator.METAL, xcrun
    glslc = _which("glslc", path, env.get("VULKAN_SDK"))
    headers = [Path(folder, "include/vulkan/vulkan.h") for folder in (env.get("VULKAN_SDK"), "/usr") if folder]
    if glslc and any(header.exists() for header in headers):
        yield Accelerator.VULKAN, glslc


def _which(name: str, path: str, *homes: str | None) -> str | None:
    """Look on PATH first, then in the `bin` folders of where the toolkit usually is."""
    found = shutil.which(name, path=path)
    folders = os.pathsep.join(str(Path(home, "bin")) for home in homes if home)
    return found or (shutil.which(name, path=folders) if folders else None)
