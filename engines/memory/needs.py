"""Whether a model, a context and a machine go together, for each engine, before anything is loaded: `plan_memory`.

Each engine has its own module with its formulas and their sources; what is common is here: which memory counts, the
context that is chosen, and the search for the largest one that fits. A part fits when it is within 90% of what is free
for it.
"""

from collections.abc import Callable

from llmrun.engines.memory.kv import CONTEXT_STEP, KV_BYTES, estimate_kv_bytes, round_context
from llmrun.engines.memory.llama_cpp import ALL_LAYERS, divide_layers, estimate_need, find_gpu_layers
from llmrun.engines.memory.types import SHARE, Division, MemoryNeed, MemoryPlan, PlanRequest
from llmrun.engines.types import EngineName
from llmrun.hardware.types import GPU, GpuVendor, Machine
from llmrun.models.types import ModelInfo
from llmrun.values import value

__all__ = [
    "KV_BYTES",
    "SHARE",
    "MemoryNeed",
    "MemoryPlan",
    "PlanRequest",
    "estimate_kv_bytes",
    "estimate_need",
    "largest_context",
    "plan_memory",
    "round_context",
    "trained_context",
]

_UNKNOWN_CONTEXT = 2048  # for a header that does not say: what the oldest families were trained for
_USEFUL_CONTEXT = 8192  # what a long conversation or a long file takes
_MOST_STEPS = 1 << 16  # of 256 tokens: 16 million
_ONE_GPU = frozenset({EngineName.PYTORCH})
"""Engines that llmrun runs on one GPU: the one with the most free memory."""

_Divide = Callable[[int], Division]


@value
class _Pools:
    """What is free: main memory, and the memory of GPUs that the engine can use."""

    main_bytes: int
    gpu_bytes: int | None
    gpus: int
    unified: bool

    def hold(self, division: Division) -> bool:
        """Return whether each part of a need is within 90% of its pool."""
        if division.main_bytes > self.main_bytes * SHARE:
            return False
        return division.gpu_bytes == 0 or division.gpu_bytes <= (self.gpu_bytes or 0) * SHARE


def plan_memory(
    engine: EngineName,
    info: ModelInfo,
    machine: Machine,
    request: PlanRequest,
    *,
    gpu_support: bool | None = None,
) -> MemoryPlan:
    """Return how an engine would take its memory; a plan that does not fit says so in `fits`, and is no error.

    Args:
        engine: Which engine.
        info: The model.
        machine: Where.
        request: Context length, GPU layers and type of the KV cache, where the user asked for some.
        gpu_support: Whether the engine's build can use a GPU; None when nobody knows, and then it is taken to.
    """
    pools = _find_pools(engine, machine, gpu_support)
    if engine is EngineName.VLLM and pools.gpus > 1:
        pools = _share_gpus(info, machine, request, pools)
    divide = _divider(engine, info, request, pools)
    largest = _search(lambda context: pools.hold(divide(context)))
    context_length = request.context_length
    if context_length is None:
        context_length = trained_context(info)
        if not request.vocabulary_only:
            context_length = _choose_context(context_length, largest, request, divide)
    division = divide(context_length)
    return MemoryPlan(
        engine=engine,
        context_length=context_length,
        need=division.need,
        main_bytes=division.main_bytes,
        gpu_bytes=division.gpu_bytes,
        main_free_bytes=pools.main_bytes,
        gpu_free_bytes=None if pools.unified else pools.gpu_bytes,
        fits=pools.hold(division),
        largest_context=largest,
        gpu_layers=division.gpu_layers,
        gpus=pools.gpus if engine is EngineName.VLLM else min(pools.gpus, 1),
    )


def _share_gpus(info: ModelInfo, machine: Machine, request: PlanRequest, pools: _Pools) -> _Pools:
    """Return the fewest GPUs that hold the model and its context: vLLM gives each the same share of every layer.

    Their number divides that of the heads, and is a power of two; each gets what the fullest of them has room for.
    """
    free_bytes = sorted((gpu.free_bytes or 0 for gpu in machine.gpus if _can_use(EngineName.VLLM, gpu)), reverse=True)
    wanted = request.context_length or trained_context(info)
    shared, count = pools, 1
    while count <= len(free_bytes) and info.heads % count == 0:
        room = count * free_bytes[count - 1]
        shared = _Pools(main_bytes=pools.main_bytes, gpu_bytes=room, gpus=count, unified=False)
        if shared.hold(_divider(EngineName.VLLM, info, request, shared)(wanted)):
            break
        count *= 2
    return shared


def _choose_context(trained: int, largest: int, request: PlanRequest, divide: _Divide) -> int:
    """Return the most of the trained context that fits, or that leaves the whole model on the GPU.

    A layer in main memory slows every token down, and few conversations fill a context of 100,000 tokens: as long as a
    useful one remains, the layers come first.
    """
    fitting = min(trained, largest or CONTEXT_STEP)
    if request.gpu_layers is not None or divide(fitting).gpu_layers in (0, ALL_LAYERS):
        return fitting
    beside_all_layers = _search(lambda context: divide(context).gpu_layers == ALL_LAYERS)
    return min(fitting, beside_all_layers) if beside_all_layers >= min(trained, _USEFUL_CONTEXT) else fitting


def trained_context(info: ModelInfo) -> int:
    """Return the context that the model was trained for, or what the oldest families were."""
    return info.context_length or _UNKNOWN_CONTEXT


def largest_context(info: ModelInfo, budget_bytes: int, kv_type: str = "f16", batch_tokens: int = 512) -> int:
    """Return the largest context length, a multiple of 256, that llama.cpp runs on the processor within the budget."""
    return _search(lambda context: estimate_need(info, context, kv_type, batch_tokens).total_bytes <= budget_bytes)


def _search(fits: Callable[[int], bool]) -> int:
    """Return the largest context length, a multiple of 256, that fits; 0 if none does."""
    low, high = 0, _MOST_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle * CONTEXT_STEP):
            low = middle
        else:
            high = middle - 1
    return low * CONTEXT_STEP


def _find_pools(engine: EngineName, machine: Machine, gpu_support: bool | None) -> _Pools:
    main = machine.memory.available_bytes
    usable = [gpu for gpu in machine.gpus if gpu.free_bytes and _can_use(engine, gpu)]
    if gpu_support is False or not usable:
        return _Pools(main_bytes=main, gpu_bytes=None, gpus=0, unified=False)
    if any(gpu.unified_memory for gpu in usable):
        free = max(gpu.free_bytes or 0 for gpu in usable)
        return _Pools(main_bytes=main, gpu_bytes=min(free, main), gpus=1, unified=True)
    free_bytes = [gpu.free_bytes or 0 for gpu in usable]
    if engine in _ONE_GPU:
        return _Pools(main_bytes=main, gpu_bytes=max(free_bytes), gpus=1, unified=False)
    return _Pools(main_bytes=main, gpu_bytes=sum(free_bytes), gpus=len(free_bytes), unified=False)


def _can_use(engine: EngineName, gpu: GPU) -> bool:
    if engine is EngineName.LLAMA_CPP:
        return True
    if engine is EngineName.PYTORCH:
        return gpu.vendor is not GpuVendor.INTEL
    return engine is EngineName.VLLM and gpu.vendor in (GpuVendor.NVIDIA, GpuVendor.AMD)


def _divider(engine: EngineName, info: ModelInfo, request: PlanRequest, pools: _Pools) -> _Divide:
    """Return the function from a context length to an engine's need. The modules of slower engines load when asked."""
    on_gpu = pools.gpus > 0
    if engine is EngineName.CTRANSFORMERS:
        from llmrun.engines.memory import ctransformers as memory_ctransformers

        return lambda context: memory_ctransformers.divide(info, context)
    if engine is EngineName.PYTORCH:
        from llmrun.engines.memory import pytorch as memory_pytorch

        return lambda context: _pool(memory_pytorch.divide(info, context, on_gpu=on_gpu), pools)
    if engine is EngineName.VLLM:
        from llmrun.engines.memory import vllm as memory_vllm

        return lambda context: memory_vllm.divide(info, context, on_gpu=on_gpu)
    return lambda context: _pool(_divide_llama_cpp(info, context, request, pools), pools)


def _divide_llama_cpp(info: ModelInfo, context: int, request: PlanRequest, pools: _Pools) -> Division:
    if pools.gpus == 0:
        return divide_layers(info, context, request.kv_type, 0, 0)
    layers = info.layers + 1
    if request.gpu_layers is None:
        layers = find_gpu_layers(
            info, context, request.kv_type, pools.gpu_bytes or 0, pools.gpus, unified=pools.unified
        )
    elif 0 <= request.gpu_layers <= info.layers:
        layers = request.gpu_layers
    return divide_layers(info, context, request.kv_type, layers, pools.gpus, unified=pools.unified)


def _pool(division: Division, pools: _Pools) -> Division:
    """Put the GPU's part into main memory where the two are one."""
    if not pools.unified:
        return division
    return Division(
        need=division.need, main_bytes=division.need.total_bytes, gpu_bytes=0, gpu_layers=division.gpu_layers
    )
