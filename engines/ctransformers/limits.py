"""What a command may ask for, and ctransformers cannot do: known before a model is loaded, and said."""

from collections.abc import Iterator
from dataclasses import replace

from llmrun.engines.memory.types import PlanRequest
from llmrun.hardware.types import GpuVendor, Machine
from llmrun.models.types import ModelInfo

__all__ = ["has_fixed_context", "heed"]

# Source: README.md and models/llms/*.cc of ctransformers 0.2.27
_ANY_CONTEXT = frozenset({"llama", "falcon"})
_ON_GPU = frozenset({"llama", "falcon", "mpt", "starcoder"})


def has_fixed_context(info: ModelInfo) -> bool:
    """Return whether there is never room for more tokens than the file says."""
    return info.architecture not in _ANY_CONTEXT and info.context_length is not None


def heed(info: ModelInfo, machine: Machine, request: PlanRequest) -> tuple[PlanRequest, tuple[str, ...]]:
    """Return what can be done of a request, and a sentence about everything else."""
    notices = tuple(_notices(info, machine, request))
    context_length, gpu_layers = request.context_length, request.gpu_layers
    if context_length is not None and has_fixed_context(info):
        context_length = min(context_length, info.context_length or context_length)
    if gpu_layers and not (info.architecture in _ON_GPU and _has_gpu(machine)):
        gpu_layers = 0
    return replace(request, context_length=context_length, gpu_layers=gpu_layers), notices


def _notices(info: ModelInfo, machine: Machine, request: PlanRequest) -> Iterator[str]:
    trained = info.context_length or 0
    if request.context_length is not None and has_fixed_context(info) and request.context_length > trained:
        yield f"--context-length {request.context_length}: a {info.architecture} file has room for {trained:,} tokens"
    if request.gpu_layers and _has_gpu(machine) and info.architecture not in _ON_GPU:
        yield f"--gpu-layers has no effect: ctransformers computes {info.architecture} on the processor"


def _has_gpu(machine: Machine) -> bool:
    """Return whether there is one that builds of ctransformers can use."""
    return any(gpu.vendor in (GpuVendor.NVIDIA, GpuVendor.AMD, GpuVendor.APPLE) for gpu in machine.gpus)
