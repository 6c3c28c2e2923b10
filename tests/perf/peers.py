"""`make peers`: what llmrun's speed is compared with, made once and kept in the cache.

- llama-bench, llama-completion and llama-batched-bench, from the source archive of the installed llama-cpp-python, with
  its compiler and build type, linked with the installed library itself: the very code that llmrun runs.
- xllamacpp, as its prebuilt wheel comes from the package index: what a user of a ready-made engine gets.

Usage: python tests/perf/peers.py
"""

import hashlib
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.cli.progress import PlainProgress
from llmrun.engines.install.build_output import BuildMonitor, explain_failure
from llmrun.engines.install.commands import find_installer, run_command
from llmrun.engines.install.llama_cpp import LLAMA_CPP_VERSION
from llmrun.engines.install.types import Command
from llmrun.engines.install.wheels import RECORD_MEMBER, read_installed_record
from llmrun.errors import LlmrunError
from llmrun.folders import cache_folder
from llmrun.hardware.toolchain import probe_toolchain

__all__ = ["Peers", "find_peers", "find_xllamacpp", "library_folder"]

PROGRAMS = ("llama-bench", "llama-completion", "llama-batched-bench")
HERE = Path(__file__).resolve().parent
_CMAKE = HERE / "peers_cmake" / "CMakeLists.txt"
_PACKAGE = "llama-cpp-python"
_SOURCE = "vendor/llama.cpp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The programs that were built."""

    bench: Path
    completion: Path
    batched_bench: Path


def library_folder() -> Path:
    """Return where the installed llama-cpp library is, without importing it."""
    import importlib.util

    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llama-cpp is not installed: llmrun install llama-cpp")
    return Path(next(iter(spec.submodule_search_locations))) / "lib"


def find_peers() -> Peers | None:
    """Return the programs that fit the installed library, or None: `make peers` has not made them."""
    folder = _folder()
    found = {name: folder / name for name in PROGRAMS}
    if not all(path.exists() for path in found.values()):
        return None
    bench, completion, batched_bench = found.values()
    return Peers(bench=bench, completion=completion, batched_bench=batched_bench)


def find_xllamacpp() -> Path | None:
    """Return the Python of the environment that has xllamacpp, or None."""
    python = _xllamacpp_folder() / "bin" / "python"
    return python if _xllamacpp_folder().joinpath("installed").exists() else None


def main() -> None:
    """Make what is missing, and say where everything is."""
    try:
        if find_peers() is None:
            _build()
        if find_xllamacpp() is None:
            _install_xllamacpp()
    except LlmrunError as error:
        raise SystemExit(f"error: {error.message}" + (f"\n  {error.fix}" if error.fix else "")) from None
    for name in PROGRAMS:
        print(_folder() / name)
    print(find_xllamacpp() or "xllamacpp: no prebuilt wheel for this machine")


def _record() -> Mapping[str, str]:
    record = read_installed_record()
    if record is None:
        raise SystemExit(f"no {RECORD_MEMBER}: the installed llama-cpp was not built by `llmrun install llama-cpp`")
    return record


def _folder() -> Path:
    facts = [_record()["key"], _record()["built"], str(library_folder()), _CMAKE.read_text()]
    return cache_folder("peers", hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16])


def _xllamacpp_folder() -> Path:
    return cache_folder("peers", f"xllamacpp-py{sys.version_info.major}{sys.version_info.minor}")


def _build() -> None:
    started = time.monotonic()
    cc, cxx = _compiler()
    work = _folder() / "building"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        cmake, ninja = _build_tools(work)
        source = _fetch_source(work)
        configure = (
            *(cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCMAKE_BUILD_TYPE=Release"),
            *("-S", str(_CMAKE.parent), "-B", str(work / "build")),
            *(f"-DLLAMA_SOURCE={source}", f"-DLLAMA_LIBRARIES={library_folder()}"),
        )
        _run(configure, "configuring", (("CC", cc), ("CXX", cxx)))
        jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        _run(
            (ninja, "-C", str(work / "build"), "-j", jobs, *PROGRAMS), f"compiling {' '.join(PROGRAMS)}", compiles=True
        )
        for name in PROGRAMS:
            (work / "build" / name).replace(_folder() / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"built in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _compiler() -> tuple[str, str]:
    """Return the compiler pair that the installed library was built with."""
    wanted = _record()["compiler"]
    for compiler in probe_toolchain(verify=False).compilers:
        if f"{compiler.family} {'.'.join(str(part) for part in compiler.version)}" == wanted:
            return compiler.cc, compiler.cxx
    raise SystemExit(f"the installed llama-cpp was built by {wanted}, which is not here any more")


def _build_tools(work: Path) -> tuple[str, str]:
    """Return CMake and Ninja: the system's, or from the package index for this build only."""
    found = shutil.which("cmake"), shutil.which("ninja")
    if found[0] and found[1]:
        return found[0], found[1]
    environment = work / "tools"
    _run((sys.executable, "-m", "venv", str(environment)), "fetching the build tools")
    python = str(environment / "bin" / "python")
    _run((python, "-m", "pip", "install", "--quiet", "cmake", "ninja"), "fetching the build tools")
    return str(environment / "bin" / "cmake"), str(environment / "bin" / "ninja")


def _fetch_source(work: Path) -> Path:
    """Fetch the source archive as the installer does (from pip's cache, if it was there), and unpack llama.cpp."""
    command = (
        *(*find_installer().pip, "download", "--no-deps", "--no-binary", _PACKAGE),
        *("--cache-dir", str(cache_folder("pip")), "--dest", str(work), f"{_PACKAGE}=={LLAMA_CPP_VERSION}"),
    )
    _run(command, f"fetching the source of {_PACKAGE} {LLAMA_CPP_VERSION}")
    archive = next(work.glob("llama_cpp_python-*.tar.gz"))
    with tarfile.open(archive) as file:
        top = archive.name.removesuffix(".tar.gz")
        wanted = [member for member in file.getmembers() if member.name.startswith(f"{top}/{_SOURCE}/")]
        file.extractall(work, members=wanted, filter="data")
    return work / top / _SOURCE


def _install_xllamacpp() -> None:
    folder = _xllamacpp_folder()
    _run((sys.executable, "-m", "venv", str(folder)), "making an environment for xllamacpp")
    pip = (str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install")
    try:
        _run((*pip, "--only-binary", ":all:", "xllamacpp"), "installing the prebuilt xllamacpp")
    except LlmrunError as error:
        print(f"xllamacpp is left out: {error.message}", file=sys.stderr)
        return
    folder.joinpath("installed").touch()


def _run(
    argv: tuple[str, ...], task: str, variables: tuple[tuple[str, str], ...] = (), *, compiles: bool = False
) -> None:
    progress = PlainProgress()
    watch: Callable[[str], None] = lambda _line: None  # noqa: E731
    log = cache_folder("logs") / f"peers-{os.getpid()}.log"
    monitor = BuildMonitor(progress, "llama.cpp's programs")
    if compiles:
        watch = monitor.feed
    else:
        progress.begin(task, None)
    run = run_command(Command(argv=argv, variables=variables), log, watch)
    if compiles:
        monitor.finish()
    else:
        progress.finish()
    if run.code != 0:
        raise explain_failure(task, run.tail, str(log), "see the log")


if __name__ == "__main__":
    main()
