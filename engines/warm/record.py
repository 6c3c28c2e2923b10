"""What is written down about a warm worker, and what makes two commands want the same one.

A worker fits a command if everything is equal that decides what the loaded model is: the files (by size, time and
inode, which a new download changes), what the user asked for, the engines that there are to choose from and their
builds, the processors and environment variables that they would see. Memory is left out on purpose, and so are the
choices that depend on it: what fits is judged before a model is loaded, and this one is.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from zlib import crc32

import llmrun
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.values import value

__all__ = ["PROTOCOL", "FileIdentity", "WarmTarget", "WarmWorker", "identify", "make_target", "target_from"]

PROTOCOL = 1
_PACKAGES = {
    EngineName.LLAMA_CPP: ("llama_cpp",),
    EngineName.CTRANSFORMERS: ("ctransformers",),
    EngineName.PYTORCH: ("torch", "transformers"),
    EngineName.VLLM: ("vllm", "torch"),
}
_ENVIRONMENT = ("LD_LIBRARY_PATH", "LD_PRELOAD", "LLAMA_CPP_LIB_PATH", "LLMRUN_FAKE")
_ENVIRONMENT_PREFIXES = ("OMP_", "KMP_", "GOMP_", "GGML_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_")


@value
class FileIdentity:
    """A file as it was: if it is replaced or changed, one of these is another."""

    path: str
    size_bytes: int
    modified_ns: int
    inode: int
    device: int


@value
class WarmTarget:
    """What a command wants to find running, or to leave running.

    Attributes:
        key: Equal for two commands that can use the same worker: everything it depends on, as JSON.
        reference: The model as the user typed it.
        path: Absolute path of what the engine loads.
        files: Every file that was loaded.
        code: llmrun's own code, and that of the engines.
    """

    key: str
    reference: str
    path: str
    files: tuple[FileIdentity, ...]
    code: tuple[FileIdentity, ...]

    @property
    def mark(self) -> str:
        """A short form of the key, for names of files."""
        return f"{crc32(self.key.encode()):08x}"

    def change(self) -> str | None:
        """Return what has changed since the target was made, so that nobody can want it any more."""
        for file in self.files:
            if identify(file.path) != file:
                return f"{file.path} was changed or removed"
        for file in self.code:
            if identify(file.path) != file:
                return f"llmrun or an engine was installed anew: {file.path}"
        return None


@value
class WarmWorker:
    """One worker process that waits for commands, as it describes itself in the runtime folder.

    Attributes:
        pid: Its process id.
        born: When it was started, as `process_born` gives it.
        target: What it has loaded.
        plan: How it has loaded it.
        version: Of llmrun.
        context_length: Tokens that the engine has set up.
        started: When it began to wait, in seconds of the clock on the wall; used likewise, for the last request.
        keep_seconds: How long it waits for the next command; None: for ever.
        busy: It is answering.
        stem: Path of its files in the runtime folder, without an ending.
    """

    pid: int
    born: int
    target: WarmTarget
    plan: LoadPlan
    version: str
    context_length: int
    started: float
    used: float
    keep_seconds: float | None
    busy: bool
    stem: str

    @property
    def socket_path(self) -> str:
        """Where it listens."""
        return f"{self.stem}.sock"

    @property
    def record_path(self) -> str:
        """Where this description is."""
        return f"{self.stem}.json"

    @property
    def log_path(self) -> str:
        """What its engine prints."""
        return f"{self.stem}.log"

    @property
    def expires(self) -> float | None:
        """When it ends unless it is used before, on the clock on the wall; None: never, or not while it is busy."""
        return None if self.keep_seconds is None or self.busy else self.used + self.keep_seconds

    def write(self) -> None:
        """Write the description, in one step, readable by this user only."""
        part = f"{self.stem}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"protocol": PROTOCOL, **asdict(self)}, file)
        Path(part).replace(self.record_path)

    @classmethod
    def read(cls, path: Path) -> "WarmWorker | None":
        """Return the worker that a file describes, or None if it describes none that this version understands."""
        try:
            document = json.loads(path.read_bytes())
            if document.pop("protocol") != PROTOCOL:
                return None
            document["target"] = target_from(document["target"])
            plan = document["plan"]
            document["plan"] = LoadPlan(**{**plan, "engine": EngineName(plan["engine"])})
            found = cls(**document)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        # Where it lies counts, and not what it says of that.
        return replace(found, stem=str(path.with_suffix("")))


def target_from(document: Mapping[str, Any]) -> WarmTarget:
    """Return the target that was made plain by `asdict`."""
    return WarmTarget(
        key=document["key"],
        reference=document["reference"],
        path=document["path"],
        files=tuple(FileIdentity(**file) for file in document["files"]),
        code=tuple(FileIdentity(**file) for file in document["code"]),
    )


def make_target(
    reference: str, path: Path, files: Sequence[Path], engine: EngineName | None, asked: Mapping[str, Any]
) -> WarmTarget:
    """Return what a command wants.

    Args:
        reference: The model as the user typed it.
        path: What the engine loads.
        files: Every file of the model, and of a draft model.
        engine: The engine that the user asked for; None: the best one.
        asked: What the user asked for, by option; plain values only.
    """
    identities = tuple(identify(file) for file in files)
    code = (identify(llmrun.__file__), *_package_identities(engine))
    depends = {
        "version": llmrun.__version__,
        "protocol": PROTOCOL,
        "code": [asdict(identity) for identity in code],
        "engine": engine,
        "path": os.path.realpath(path),
        "files": [{**asdict(identity), "path": os.path.realpath(identity.path)} for identity in identities],
        "asked": dict(asked),
        "processors": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "environment": _environment(),
    }
    return WarmTarget(
        key=json.dumps(depends, sort_keys=True, default=str),
        reference=reference,
        path=str(path.absolute()),
        files=identities,
        code=code,
    )


def identify(path: str | Path) -> FileIdentity:
    """Return what a file is now; one that cannot be read is one of no size."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - not resolved: a link that points elsewhere is a change
    try:
        found = os.stat(absolute)  # noqa: PTH116
    except OSError:
        return FileIdentity(path=absolute, size_bytes=-1, modified_ns=0, inode=0, device=0)
    return FileIdentity(
        path=absolute,
        size_bytes=found.st_size,
        modified_ns=found.st_mtime_ns,
        inode=found.st_ino,
        device=found.st_dev,
    )


def _package_identities(engine: EngineName | None) -> list[FileIdentity]:
    """Return what a new version or build of an engine changes, or of any that could be chosen; nothing is imported."""
    found = [identify(sys.executable)]
    every = dict.fromkeys(name for names in _PACKAGES.values() for name in names)
    for name in every if engine is None else _PACKAGES.get(engine, ()):
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None:
            found += [identify(spec.origin), identify(Path(spec.origin).with_name("lib"))]
    return found


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
