"""How many answers of a batch are written at once."""

from llmrun.engines.types import EngineName, LoadPlan

__all__ = ["choose_parallel"]

_LLAMA_CPP = 16
_LLAMA_CPP_ON_GPU = 32
_VLLM = 32
_VLLM_ON_GPU = 256


def choose_parallel(plan: LoadPlan, wanted: int | None) -> int:
    """Return the number that was asked for, or what is good for the engine; others than these two have one sequence.

    llama-cpp divides the memory that the plan has for one context, and vLLM takes in what its cache has room for, so
    that no number is too large for the memory.

    Args:
        plan: How the model is to be loaded.
        wanted: What the user asked for.
    """
    if plan.engine is EngineName.LLAMA_CPP:
        return wanted or (_LLAMA_CPP_ON_GPU if plan.gpu_layers else _LLAMA_CPP)
    if plan.engine is EngineName.VLLM:
        return wanted or (_VLLM_ON_GPU if plan.gpu_layers else _VLLM)
    return wanted or 1 if plan.engine is EngineName.FAKE else 1
