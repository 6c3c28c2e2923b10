"""How fast a model will run on a machine, told from the header and the hardware, before anything is loaded.

Generating a token reads every weight that takes part once, so the time of a token is Σ over the tensor types of bytes
read / rate, and a little for every layer. Two things hold a type up: memory, and the kernel that unpacks it (see
`kernels`). They overlap in part: t = √(t_memory² + t_kernel²) is within a seventh of what was measured with
seven types, on one core and on two. A larger file may therefore be the faster one, and `slow_types` says why.

What a forecast leaves out: the KV cache (it is for short contexts), other processes, what it costs to read the memory
of another socket, and caches: a model of some tens of megabytes lives in them and is faster than this. Without a known
bandwidth there is no forecast.

`ModelInfo` has bytes by type, not by tensor. So the experts are taken to be of the largest types, and the table of
token embeddings, of which a token reads one row, is left out where it is a small part of a model: there the output has
a table of its own. Models in which one such table is 9% or more share it with the output (SmolLM2, Qwen2.5 up to 3B,
Llama 3.2, Gemma 2 up to 9B do; Llama 3 8B, Qwen2.5 7B, Mistral, Phi-3 do not). For a small model with two tables
(Pythia 160M, some files of Qwen2.5 0.5B) the forecast is too low, by a quarter at most of those known.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmrun.engines.speed.kernels import (
    NO_KERNELS,
    Kernel,
    decode_rate,
    fast_kernels,
    find_kernel,
    limit_instructions,
    own_kernels,
    prefill_rate,
)
from llmrun.engines.types import EngineName
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine
from llmrun.models.gguf.types import TENSOR_TYPES
from llmrun.models.types import ModelFormat, ModelInfo

__all__ = ["SpeedForecast", "bytes_per_token", "fast_kernels", "forecast_speed", "weights_per_prompt_token"]

_TIED_SHARE = 0.09
_SLOW_SHARE = 0.1  # of the bytes: a type of which there is less explains nothing
_INTEGERS = frozenset({"I8", "I16", "I32", "I64"})  # what other formats pack their weights into
_BYTES_PER_WEIGHT = {
    kind.name: kind.block_bytes / kind.block_size for kind in TENSOR_TYPES.values() if kind.name not in _INTEGERS
}
# Barriers and small operations of one layer on a CPU: a model of 24 layers of width 256 that lives in the cache.
_CPU_LAYER_SECONDS = 12e-6

# One layer's launches on a GPU, and the part of the bandwidth that reading weights reaches. They fit: llama.cpp, RTX
# 3090 (936 GB/s), 8B Q4_0: 155 tokens/s (https://github.com/ggml-org/llama.cpp/pull/15802); M1 Ultra (800 GB/s), 1.1B
# Q4_K_M: 243 (https://github.com/geerlingguy/ai-benchmarks/issues/48); M4 (120 GB/s), 8B Q4_K_M: 20.9
# (https://github.com/brand-o/normiebench/issues/3).
_GPU_EFFICIENCY = 0.8
_GPU_LAYER_SECONDS = 25e-6
_METAL_LAYER_SECONDS = 130e-6
_VLLM_LAYER_SECONDS = 10e-6  # whole steps are replayed as CUDA graphs; assumed

# What the cores of a processor with unified memory reach of the bandwidth that its GPU has. An M2 Pro took 48 ms for a
# token of a 7B Q4_0 on its cores and 29 ms on its GPU: https://github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference/issues/1
_UNIFIED_CPU_SHARE = 0.5

# transformers on a CPU: SmolLM2 (30 layers) at 22 tokens/s in float32 and 17 in bfloat16 where memory gives 25.6 GB/s.
# On a GPU the same dispatching runs beside the kernels, so the slower of the two decides.
_DISPATCH_LAYER_SECONDS = 0.8e-3
_TORCH_HALF_RATE = 4e9  # of one core, in bytes: its bfloat16 products of one row are slow
_LAUNCHING = "launching kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedForecast:
    """The expected speed of one sequence with a short context.

    Attributes:
        decode_tokens_per_second: Tokens generated per second.
        prefill_tokens_per_second: Tokens of a prompt per second, or None: only llama.cpp on a CPU was measured.
        limit: What it is held up by most: `memory bandwidth`, `no fast kernel for Q5_0 on this CPU`, …
        slow_types: The tensor types whose kernel is slower than memory is, slowest part first.
        own_kernels: The tensor types that llmrun's own kernels multiply by, the largest first.
    """

    decode_tokens_per_second: float
    prefill_tokens_per_second: float | None
    limit: str
    slow_types: tuple[str, ...] = ()
    own_kernels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Part:
    """The time of one token on one device."""

    seconds: float
    limit: str
    slow_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """The processor as an engine's build uses it, and the types for which it has kernels of llmrun's own."""

    cpu: CpuInfo
    kernels: frozenset[str]


def forecast_speed(
    engine: EngineName,
    info: ModelInfo,
    machine: Machine,
    *,
    gpu_layers: int = 0,
    gpu_support: bool | None = None,
    tuned: bool | None = None,
    kernels: frozenset[str] | None = None,
) -> SpeedForecast | None:
    """Return the expected speed, or None where a bandwidth that it depends on is unknown.

    Args:
        engine: Which engine runs the model; vllm always runs on the GPU.
        info: The model.
        machine: Its `memory_bandwidth_bytes_per_second` counts, and that of the GPU with the most free memory.
        gpu_layers: Layers on the GPU, -1 for all; for pytorch anything but 0 is all of them.
        gpu_support: Whether the installed engine can use the GPU; None: it will.
        tuned: Whether the engine was built for this processor; None: it will be.
        kernels: The types for which the build has kernels of llmrun's own; None: it will be built with them.
    """
    cpu = _seen_by(engine, machine.cpu, tuned, kernels)
    share = _gpu_share(engine, info, gpu_layers)
    if (gpu_support is False or not machine.gpus) and engine is not EngineName.VLLM:
        share = 0.0
    read = _bytes_read(engine, info)
    if not read:
        return None
    on_gpu = _time_on_gpu(engine, info, read, machine, share) if share > 0 else None
    on_cpu = _time_on_cpu(engine, info, read, machine, 1 - share, cpu) if share < 1 else None
    if (share > 0 and on_gpu is None) or (share < 1 and on_cpu is None):
        return None
    parts = [part for part in (on_gpu, on_cpu) if part is not None]
    slowest = max(parts, key=lambda part: part.seconds)
    prefill = _prefill(engine, info, read, cpu) if share == 0 else None
    return SpeedForecast(
        decode_tokens_per_second=1 / sum(part.seconds for part in parts),
        prefill_tokens_per_second=prefill,
        limit=slowest.limit,
        slow_types=on_cpu.slow_types if on_cpu else (),
        own_kernels=_with_own_kernels(read, cpu) if on_cpu else (),
    )


def bytes_per_token(engine: EngineName, info: ModelInfo) -> float:
    """Return the bytes of weights that one token reads."""
    return sum(_bytes_read(engine, info).values())


def weights_per_prompt_token(engine: EngineName, info: ModelInfo) -> float:
    """Return how many weights one token of a prompt is multiplied by: those of the output only the last one needs."""
    return sum(_multiplied(_bytes_read(engine, info), info).values())


def _gpu_share(engine: EngineName, info: ModelInfo, gpu_layers: int) -> float:
    """Return the part of the model that the GPU runs, 0 to 1."""
    if engine is EngineName.VLLM or gpu_layers < 0 or (engine is EngineName.PYTORCH and gpu_layers):
        return 1.0
    return min(1.0, gpu_layers / max(1, info.layers))


def _bytes_read(engine: EngineName, info: ModelInfo) -> dict[str, float]:
    """Return the bytes of each tensor type that one token reads."""
    types = {name: float(size) for name, size in info.tensor_types if size > 0}
    if not types:
        return {}
    _leave_out_idle_experts(types, info)
    table = info.vocabulary_size * info.embedding_length
    if table < _TIED_SHARE * info.parameters:
        main = max(types, key=lambda name: types[name])
        types[main] = max(0.0, types[main] - table * _bytes_per_weight(main))
    if engine is EngineName.PYTORCH and info.format in {ModelFormat.GGUF, ModelFormat.GGML}:
        return {"BF16": 2 * sum(size / _bytes_per_weight(name) for name, size in types.items())}
    return types


def _leave_out_idle_experts(types: dict[str, float], info: ModelInfo) -> None:
    """Take the experts that a token does not use out of the largest types."""
    if not 0 < info.experts_used < info.experts:
        return
    idle = 1 - info.experts_used / info.experts
    left = float(min(info.expert_bytes, sum(types.values())))
    for name in sorted(types, key=lambda name: -types[name]):
        held = min(left, types[name])
        types[name] -= held * idle
        left -= held


def _time_on_gpu(
    engine: EngineName, info: ModelInfo, read: Mapping[str, float], machine: Machine, share: float
) -> _Part | None:
    gpu = _find_gpu(machine)
    if gpu is None or not gpu.memory_bandwidth_bytes_per_second:
        return None
    reading = share * sum(read.values()) / (gpu.memory_bandwidth_bytes_per_second * _GPU_EFFICIENCY)
    layers = share * info.layers
    if engine is EngineName.PYTORCH:
        dispatching = layers * _DISPATCH_LAYER_SECONDS
        return _Part(max(reading, dispatching), _LAUNCHING if dispatching > reading else "GPU memory bandwidth")
    per_layer = _METAL_LAYER_SECONDS if gpu.vendor is GpuVendor.APPLE else _GPU_LAYER_SECONDS
    launching = layers * (_VLLM_LAYER_SECONDS if engine is EngineName.VLLM else per_layer)
    return _Part(reading + launching, _LAUNCHING if launching > reading else "GPU memory bandwidth")


def _find_gpu(machine: Machine) -> GPU | None:
    return max(machine.gpus, key=lambda gpu: gpu.free_bytes or 0, default=None)


def _time_on_cpu(
    engine: EngineName,
    info: ModelInfo,
    read: Mapping[str, float],
    machine: Machine,
    share: float,
    seen: _Seen,
) -> _Part | None:
    bandwidth = _cpu_bandwidth(machine)
    if not bandwidth:
        return None
    from_memory = {name: size * share / bandwidth for name, size in read.items()}
    unpacking = {name: size * share / (_rate(engine, name, seen) * seen.cpu.threads) for name, size in read.items()}
    reading = sum(math.hypot(from_memory[name], unpacking[name]) for name in read)
    per_layer = _DISPATCH_LAYER_SECONDS if engine is EngineName.PYTORCH else _CPU_LAYER_SECONDS
    launching = share * info.layers * per_layer
    slow = _slow_types(read, from_memory, unpacking)
    return _Part(reading + launching, _cpu_limit(engine, seen, from_memory, unpacking, launching, slow), slow)


def _cpu_bandwidth(machine: Machine) -> float | None:
    """Return what the cores read per second; of unified memory, published figures are for the whole chip."""
    known = [machine.memory_bandwidth_bytes_per_second]
    known += [
        _UNIFIED_CPU_SHARE * (gpu.memory_bandwidth_bytes_per_second or 0) for gpu in machine.gpus if gpu.unified_memory
    ]
    return min((value for value in known if value), default=None)


def _seen_by(engine: EngineName, cpu: CpuInfo, tuned: bool | None, kernels: frozenset[str] | None) -> _Seen:
    """Return the processor with the instruction sets and the kernels that the engine's build uses."""
    if not cpu.isa_flags:  # they could not be read; processors without these have become rare
        usual = {"asimd", "asimddp"} if cpu.architecture == "arm64" else {"avx", "avx2"}
        cpu = replace(cpu, isa_flags=frozenset(usual))
    if tuned is False or engine is EngineName.CTRANSFORMERS:
        cpu = limit_instructions(cpu)
    if engine is not EngineName.LLAMA_CPP:
        return _Seen(cpu, NO_KERNELS)
    return _Seen(cpu, own_kernels(cpu) if kernels is None else kernels & own_kernels(cpu))


def _rate(engine: EngineName, type_name: str, seen: _Seen) -> float:
    if engine is EngineName.PYTORCH:
        return decode_rate("F32", seen.cpu) if type_name == "F32" else _TORCH_HALF_RATE
    return decode_rate(type_name, seen.cpu, seen.kernels, repack=engine is not EngineName.CTRANSFORMERS)


def _slow_types(
    read: Mapping[str, float], from_memory: Mapping[str, float], unpacking: Mapping[str, float]
) -> tuple[str, ...]:
    total = sum(read.values())
    slow = [name for name in read if unpacking[name] > from_memory[name] and read[name] >= _SLOW_SHARE * total]
    return tuple(sorted(slow, key=lambda name: -unpacking[name]))


def _with_own_kernels(read: Mapping[str, float], seen: _Seen) -> tuple[str, ...]:
    least = _SLOW_SHARE * sum(read.values())
    found = [name for name in read if read[name] >= least and find_kernel(name, seen.cpu, seen.kernels) is Kernel.OWN]
    return tuple(sorted(found, key=lambda name: -read[name]))


def _cpu_limit(
    engine: EngineName,
    seen: _Seen,
    from_memory: Mapping[str, float],
    unpacking: Mapping[str, float],
    launching: float,
    slow: tuple[str, ...],
) -> str:
    if launching > max(sum(from_memory.values()), sum(unpacking.values())):
        return _LAUNCHING
    held_up = sum(unpacking[name] - from_memory[name] for name in slow)
    if held_up < _SLOW_SHARE * sum(from_memory.values()):
        return "memory bandwidth"
    without = [
        name for name in slow if name not in fast_kernels(seen.cpu, seen.kernels) or engine is not EngineName.LLAMA_CPP
    ]
    if without:
        where = "in this build" if set(without) <= own_kernels(seen.cpu) else "on this CPU"
        return f"no fast kernel for {' and '.join(without[:2])} {where}"
    return f"arithmetic on {seen.cpu.threads} core{'s' if seen.cpu.threads > 1 else ''}"


def _prefill(engine: EngineName, info: ModelInfo, read: Mapping[str, float], seen: _Seen) -> float | None:
    """Return tokens of a prompt per second: two operations for each weight but the output's, which only the last needs.

    The output is taken to be of the most precise type that has enough bytes for it, as llama.cpp's recipes make it.
    """
    if engine is not EngineName.LLAMA_CPP:
        return None
    weights = _multiplied(read, info)
    seconds = sum(2 * count / prefill_rate(name, seen.cpu, seen.kernels) for name, count in weights.items())
    return seen.cpu.threads / seconds


def _multiplied(read: Mapping[str, float], info: ModelInfo) -> dict[str, float]:
    """Return the weights of each type but those of the output."""
    weights = {name: size / _bytes_per_weight(name) for name, size in read.items()}
    table = info.vocabulary_size * info.embedding_length
    for name in sorted(weights, key=_bytes_per_weight, reverse=True):
        if weights[name] > table:
            weights[name] -= table
            break
    return weights


def _bytes_per_weight(type_name: str) -> float:
    """Return the size of one weight; two bytes for types that no GGUF has: tables of embeddings are kept so there."""
    return _BYTES_PER_WEIGHT.get(type_name, 2.0)
