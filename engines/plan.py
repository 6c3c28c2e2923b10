"""From a model, a machine and what the user asked for to a plan that fits: context length, threads, GPU layers.

A plan that would take more than 90% of the memory this process may use is refused with the numbers, because the
alternative is to be killed by the system in the middle of an answer.
"""

from dataclasses import replace

from llmrun.engines.memory.kv import CONTEXT_STEP, estimate_kv_bytes
from llmrun.engines.memory.llama_cpp import ALL_LAYERS, BATCH_TOKENS
from llmrun.engines.memory.needs import plan_memory, trained_context
from llmrun.engines.memory.types import SHARE, MemoryPlan, PlanRequest
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import NotEnoughMemoryError, UsageError
from llmrun.hardware.types import Machine
from llmrun.models.types import LocalModel, ModelFormat, ModelInfo

__all__ = ["PlanRequest", "check_request", "make_plan"]

_GIB = 1 << 30
_SMALLER_KV_TYPE = "q8_0"


def make_plan(
    engine: EngineName,
    model: LocalModel | str,
    info: ModelInfo,
    machine: Machine,
    request: PlanRequest,
    *,
    gpu_support: bool | None = None,
) -> tuple[LoadPlan, tuple[str, ...]]:
    """Return the plan, and notices about choices that the user should know of.

    Args:
        engine: Which engine loads the model.
        model: The model, or the path of its file or folder.
        info: What its headers say.
        machine: Where it is to run.
        request: What the user asked for.
        gpu_support: Whether the engine's build can use a GPU, None when nobody knows.

    Raises:
        NotEnoughMemoryError: Model and context do not fit; says what is needed, what there is, what would fit.
    """
    memory = plan_memory(engine, info, machine, request, gpu_support=gpu_support)
    unheeded: tuple[str, ...] = ()
    if engine is EngineName.CTRANSFORMERS:
        memory, request, unheeded = _heed_ctransformers(info, machine, request, memory)
    if not request.vocabulary_only and not memory.fits:
        raise _does_not_fit(info, machine, request, memory, gpu_support)
    plan = LoadPlan(
        engine=engine,
        model_path=model if isinstance(model, str) else str(model.path),
        context_length=memory.context_length,
        context_is_fixed=request.context_length is not None or not _can_grow(info, request, memory),
        threads=request.threads or machine.cpu.threads,
        threads_are_fixed=request.threads is not None,
        gpu_layers=memory.gpu_layers if request.gpu_layers is None else request.gpu_layers,
        kv_type=request.kv_type,
        batch_tokens=BATCH_TOKENS,
        vocabulary_only=request.vocabulary_only,
        estimated_bytes=memory.need.total_bytes,
        draft_path=request.draft_path,
        lookup=request.lookup,
        dtype=request.dtype,
        quantization=request.quantization,
        pickle=request.pickle,
        remote_code=request.remote_code,
        model_type=request.model_type or (info.architecture if info.format is ModelFormat.GGML else None),
        parallel=request.parallel,
        gpus=max(1, memory.gpus),
        family=info.family,
    )
    return plan, (*_notices(info, machine, request, memory), *unheeded)


def _heed_ctransformers(
    info: ModelInfo, machine: Machine, request: PlanRequest, memory: MemoryPlan
) -> tuple[MemoryPlan, PlanRequest, tuple[str, ...]]:
    """Return plan and request as far as ctransformers can follow them, and what it cannot; memory was judged before."""
    from llmrun.engines.ctransformers.limits import has_fixed_context, heed

    if has_fixed_context(info):
        memory = replace(memory, largest_context=min(memory.largest_context, trained_context(info)))
    if not memory.fits:
        return memory, request, ()
    heeded, notices = heed(info, machine, request)
    return replace(memory, context_length=heeded.context_length or memory.context_length), heeded, notices


def _notices(info: ModelInfo, machine: Machine, request: PlanRequest, memory: MemoryPlan) -> list[str]:
    notices: list[str] = []
    trained = trained_context(info)
    whole = memory.gpu_layers == ALL_LAYERS and memory.largest_context > memory.context_length
    if memory.context_length < trained and request.context_length is None:
        notices.append(
            f"context length {memory.context_length:,} of the {trained:,} that the model was trained for: "
            + ("more would leave layers without room on the GPU" if whole else "more does not fit in memory")
        )
    if memory.context_length > trained:
        notices.append(f"the model was trained for {trained:,} tokens of context; beyond that answers may degrade")
    if request.threads is not None and request.threads > machine.cpu.affinity:
        notices.append(f"{request.threads} threads on {machine.cpu.affinity} processors will be slower than fewer")
    return notices


def check_request(request: PlanRequest) -> None:
    """Refuse values that no model could honour.

    Raises:
        UsageError: Names the option.
    """
    if request.context_length is not None and request.context_length < 1:
        raise UsageError(f"--context-length wants at least 1 token, found {request.context_length}")
    if request.threads is not None and request.threads < 1:
        raise UsageError(f"--threads wants at least 1, found {request.threads}")
    if request.gpu_layers is not None and request.gpu_layers < -1:
        raise UsageError(f"--gpu-layers wants a number of layers, or -1 for all; found {request.gpu_layers}")


def _can_grow(info: ModelInfo, request: PlanRequest, memory: MemoryPlan) -> bool:
    """Return whether there is room to grow a context: what it holds is copied, and for a moment both are there.

    The largest copy is that of a context one step short of the whole. The compute buffers of the new context are empty
    then, but those of the old one may not have been given back yet.
    """
    copied = estimate_kv_bytes(info, max(0, memory.context_length - CONTEXT_STEP), request.kv_type)
    return memory.main_bytes + copied <= memory.main_free_bytes * SHARE


def _does_not_fit(
    info: ModelInfo, machine: Machine, request: PlanRequest, memory: MemoryPlan, gpu_support: bool | None
) -> NotEnoughMemoryError:
    need = memory.need
    fitting = memory.largest_context
    return NotEnoughMemoryError(
        f"a context of {memory.context_length:,} tokens needs {_gib(need.total_bytes)} "
        f"(weights {_gib(need.weights_bytes)}, KV cache {_gib(need.kv_bytes)}); {_describe_free(machine, memory)}, and "
        f"llmrun takes at most 90% of that; the largest context that fits is {fitting:,} tokens",
        fix=_next_best(info, machine, request, memory, gpu_support),
    )


def _describe_free(machine: Machine, memory: MemoryPlan) -> str:
    """Say what is free, and for a divided need what is wanted of each."""
    source = machine.memory.limit_source
    limit = f" (limited by {source})" if source else ""
    main = f"{_gib(memory.main_free_bytes)} are available{limit}"
    if memory.gpu_free_bytes is None or memory.gpu_bytes == 0:
        return main
    return (
        f"of {_gib(memory.gpu_bytes)} on the GPU {_gib(memory.gpu_free_bytes)} are free, "
        f"and of {_gib(memory.main_bytes)} in main memory {main}"
    )


def _next_best(
    info: ModelInfo, machine: Machine, request: PlanRequest, memory: MemoryPlan, gpu_support: bool | None
) -> str:
    """Return what would fit: a smaller context, or the one asked for with a smaller KV cache, or fewer layers."""

    def fits(changed: PlanRequest) -> bool:
        return plan_memory(memory.engine, info, machine, changed, gpu_support=gpu_support).fits

    ways = []
    if memory.largest_context:
        ways.append(f"--context-length {memory.largest_context} fits")
    exact = replace(request, context_length=memory.context_length)
    smaller = replace(exact, kv_type=_SMALLER_KV_TYPE)
    if request.kv_type == "f16" and memory.engine is EngineName.LLAMA_CPP and fits(smaller):
        ways.append(f"--kv-type {_SMALLER_KV_TYPE} makes room for {memory.context_length} tokens")
    if request.gpu_layers and fits(replace(exact, gpu_layers=None)):
        ways.append("leaving --gpu-layers out puts as many layers on the GPU as fit")
    return "; ".join(ways) or "a smaller quantization of the model, or a smaller model"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.1f} GiB"
