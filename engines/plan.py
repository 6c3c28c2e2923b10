"""From a model, a machine and what the user asked for to a plan that fits: context length, threads, GPU layers.

A plan that would take more than 90% of the memory this process may use is refused with the numbers, because the
alternative is to be killed by the system in the middle of an answer.
"""

from dataclasses import dataclass

from llmrun.engines.memory import MemoryNeed, estimate_need, largest_context
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import NotEnoughMemoryError, UsageError
from llmrun.hardware.types import Machine
from llmrun.models.types import LocalModel, ModelInfo

__all__ = ["PlanRequest", "make_plan"]

_SHARE = 0.9
_GIB = 1 << 30
_UNKNOWN_CONTEXT = 2048  # for a header that does not say: what the oldest families were trained for
_BATCH_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What the user asked for; None leaves the choice to the plan."""

    context_length: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    kv_type: str = "f16"
    vocabulary_only: bool = False


def make_plan(
    engine: EngineName, model: LocalModel, info: ModelInfo, machine: Machine, request: PlanRequest
) -> tuple[LoadPlan, tuple[str, ...]]:
    """Return the plan, and notices about choices that the user should know of.

    Raises:
        NotEnoughMemoryError: Model and context do not fit; says what is needed, what there is, what would fit.
        UsageError: An option that this model cannot honour.
    """
    notices: list[str] = []
    budget = int(machine.memory.available_bytes * _SHARE)
    trained = info.context_length or _UNKNOWN_CONTEXT
    if request.context_length is None:
        context_length = trained
        if not request.vocabulary_only:
            context_length = _fit_context(info, machine, request.kv_type, trained, budget)
            if context_length < trained:
                notices.append(
                    f"context length {context_length:,} of the {trained:,} that the model was trained for: "
                    "more does not fit in memory"
                )
    else:
        context_length = request.context_length
        if context_length > trained:
            notices.append(f"the model was trained for {trained:,} tokens of context; beyond that answers may degrade")
    need = estimate_need(info, context_length, request.kv_type)
    if not request.vocabulary_only and need.total_bytes > budget:
        raise _does_not_fit(info, machine, request.kv_type, context_length, need, budget)
    if request.threads is not None and request.threads > machine.cpu.affinity:
        notices.append(f"{request.threads} threads on {machine.cpu.affinity} processors will be slower than fewer")
    plan = LoadPlan(
        engine=engine,
        model_path=str(model.path),
        context_length=context_length,
        context_is_fixed=request.context_length is not None,
        threads=request.threads or machine.cpu.threads,
        gpu_layers=_gpu_layers(info, machine, need) if request.gpu_layers is None else request.gpu_layers,
        kv_type=request.kv_type,
        batch_tokens=_BATCH_TOKENS,
        vocabulary_only=request.vocabulary_only,
        estimated_bytes=need.total_bytes,
    )
    return plan, tuple(notices)


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


def _fit_context(info: ModelInfo, machine: Machine, kv_type: str, trained: int, budget: int) -> int:
    if estimate_need(info, trained, kv_type).total_bytes <= budget:
        return trained
    fitting = largest_context(info, budget, kv_type)
    if fitting == 0:
        need = estimate_need(info, 256, kv_type)
        raise _does_not_fit(info, machine, kv_type, min(trained, 256), need, budget)
    return min(trained, fitting)


def _does_not_fit(
    info: ModelInfo, machine: Machine, kv_type: str, context_length: int, need: MemoryNeed, budget: int
) -> NotEnoughMemoryError:
    memory = machine.memory
    limit = f" (limited by {memory.limit_source})" if memory.limit_source else ""
    fitting = largest_context(info, budget, kv_type)
    fix = f"--context-length {fitting} fits" if fitting else "a smaller quantization of the model, or a smaller model"
    return NotEnoughMemoryError(
        f"a context of {context_length:,} tokens needs {_gib(need.total_bytes)} (weights {_gib(need.weights_bytes)}, "
        f"KV cache {_gib(need.kv_bytes)}); {_gib(memory.available_bytes)} are available{limit}, and llmrun takes at "
        f"most 90% of that; the largest context that fits is {fitting:,} tokens",
        fix=fix,
    )


def _gpu_layers(info: ModelInfo, machine: Machine, need: MemoryNeed) -> int:
    """Return how many layers fit in the free memory of the GPUs: -1 for all, 0 without a GPU."""
    free = sum(gpu.free_bytes or 0 for gpu in machine.gpus)
    budget = int(free * _SHARE) - need.compute_bytes
    if budget <= 0:
        return 0
    per_layer = (need.weights_bytes + need.kv_bytes) / (info.layers + 1)
    layers = int(budget / per_layer)
    return -1 if layers > info.layers else layers


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.1f} GiB"
