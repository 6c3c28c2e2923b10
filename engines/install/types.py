"""The values of an installation: what is asked for, how llama-cpp will be built, the commands, and what came out."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmrun.engines.types import EngineName
from llmrun.hardware.types import Accelerator, Compiler

__all__ = ["KERNELS_OPTION", "Command", "InstallRequest", "InstallResult", "Recipe"]

KERNELS_OPTION = "-DLLMRUN_KERNELS=ON"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What the user asked for.

    Attributes:
        engine: Which engine.
        prebuilt: Take a ready wheel from the package index instead of building one.
        wheel: Take this wheel, a path or an address.
        rebuild: Build although a wheel for this machine is kept.
        accelerator: Build for this kind of GPU, also if none is found; None: for what is found.
        cpu_only: Leave GPUs out.
        kernels: Add llmrun's own kernels to llama.cpp where this CPU can run them.
        jobs: Compile so many files at once; None: as many as cores and memory allow.
        dry_run: Decide and say, but run nothing.
    """

    engine: EngineName
    prebuilt: bool = False
    wheel: str | None = None
    rebuild: bool = False
    accelerator: Accelerator | None = None
    cpu_only: bool = False
    kernels: bool = True
    jobs: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to build llama.cpp.

    Attributes:
        name: `native` (everything this CPU has), `no-amx` (instruction sets by name, without AMX) or `portable`
            (the oldest common set); `native-kernels` and `no-amx-kernels` have llmrun's own kernels too.
        compiler: What compiles it.
        accelerator: The GPU toolkit, or None.
        options: CMake options, sorted by how much they matter to a reader.
        variables: Environment variables that the GPU toolkits want, beside CC and CXX.
        because: Why this compiler and these options, one clause each.
    """

    name: str
    compiler: Compiler
    accelerator: Accelerator | None
    options: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    because: tuple[str, ...] = ()

    @property
    def kernels(self) -> bool:
        """Whether llmrun's own kernels are added."""
        return KERNELS_OPTION in self.options


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program call that can be shown and run, and is the same both times."""

    argv: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()

    def render(self) -> str:
        """Return the line that does the same in a POSIX shell."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.variables]
        return " ".join([*assignments, shlex.join(self.argv)])

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment to run in."""
        return {**(os.environ if base is None else base), **dict(self.variables)}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallResult:
    """What an installation did.

    Attributes:
        engine: Which engine.
        version: Its version, or None on a dry run of an engine whose version pip chooses.
        commands: What was run, or would be.
        changed: False when it was there already.
        build: What the build record says (recipe, compiler, options), as name and value.
        advice: What would make it faster, one sentence each, with the command.
        seconds: How long it took.
    """

    engine: EngineName
    version: str | None
    commands: tuple[Command, ...] = ()
    changed: bool = True
    build: Mapping[str, str] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    seconds: float = 0.0
