"""Options that an engine cannot honour: refused before anything is loaded, or said; never ignored.

What changes how much memory is needed, or what the answer is made with, is refused with what does work. What only
might have made it faster, and is often set for all commands at once, is said.
"""

from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName, SamplingOptions
from llmrun.errors import UsageError

__all__ = ["check_options", "check_sampling", "option_notices"]

_LLAMA_CPP_ONLY = frozenset({EngineName.CTRANSFORMERS, EngineName.PYTORCH, EngineName.VLLM})
_READS_QUANTIZED = frozenset({EngineName.LLAMA_CPP, EngineName.CTRANSFORMERS})
_GGUF = "a GGUF file of the model, which llama-cpp runs"


def check_options(engine: EngineName, request: PlanRequest, *, on_gpu: bool) -> None:
    """Refuse what the engine cannot do.

    Args:
        engine: The one that was chosen.
        request: What the user asked for.
        on_gpu: Whether there is a GPU that this engine can use.

    Raises:
        UsageError: Names the option, and what does work.
    """
    if request.kv_type != "f16" and engine in _LLAMA_CPP_ONLY:
        raise UsageError(
            f"--kv-type {request.kv_type} is for llama-cpp: {engine} keeps keys and values in the type it computes in",
            fix=f"leave --kv-type out, or take {_GGUF}",
        )
    if request.draft_path is not None and engine in _LLAMA_CPP_ONLY:
        other = "--lookup on" if engine is EngineName.VLLM else _GGUF
        raise UsageError(f"--draft is for llama-cpp, and this model runs on {engine}", fix=other)
    if request.quantization is not None:
        _check_quantization(engine, request.quantization, on_gpu=on_gpu)


def check_sampling(engine: EngineName, sampling: SamplingOptions) -> None:
    """Refuse a schema or a grammar that the engine cannot keep an answer to. Log probabilities all of them have.

    Raises:
        UsageError: Names the option, and what does work.
    """
    if sampling.json_schema is None and sampling.grammar is None:
        return
    if sampling.json_schema is not None and sampling.grammar is not None:
        raise UsageError("an answer can follow a JSON schema or a grammar, not both", fix="leave one of them out")
    option = "--grammar" if sampling.json_schema is None else "--json-schema"
    if engine is EngineName.CTRANSFORMERS:
        raise UsageError(
            f"{option} is not for ctransformers: it cannot keep an answer to a JSON schema or a grammar",
            fix="llmrun models convert makes a GGUF of a llama file, for llama-cpp, which can",
        )
    if engine in (EngineName.PYTORCH, EngineName.VLLM):
        from importlib.util import find_spec

        if find_spec("xgrammar") is None:
            raise UsageError(
                f"{option} on {engine} needs the package xgrammar, which is not installed",
                fix=f"llmrun install {engine}",
            )


def _check_quantization(engine: EngineName, quantization: str, *, on_gpu: bool) -> None:
    wanted = f"--quantization {quantization}"
    if engine in _READS_QUANTIZED:
        raise UsageError(
            f"{wanted} is for weights in Hugging Face folders; the files that {engine} reads are quantized already",
            fix="leave --quantization out, or name another file of the model: MODEL:Q4_K_M",
        )
    if engine is EngineName.PYTORCH and not on_gpu:
        raise UsageError(
            f"{wanted} is done by bitsandbytes, which is made for GPUs, and none can be used here: on a processor it "
            "would be many times slower than without",
            fix=f"leave --quantization out, or take {_GGUF}, quantized already",
        )


def option_notices(engine: EngineName, request: PlanRequest, *, on_gpu: bool) -> tuple[str, ...]:
    """Return a line for every option that changes nothing with this engine."""
    notices = []
    if request.lookup == "on" and engine in (EngineName.CTRANSFORMERS, EngineName.PYTORCH):
        notices.append(f"--lookup on has no effect: {engine} does not guess ahead")
    if request.dtype != "auto" and engine in _READS_QUANTIZED:
        notices.append(f"--dtype has no effect: {engine} computes in the types of the file")
    if request.gpu_layers is not None and engine is EngineName.VLLM:
        notices.append("--gpu-layers has no effect: vllm puts all layers where it computes")
    if engine is EngineName.PYTORCH and on_gpu and request.gpu_layers not in (None, 0, -1):
        notices.append(f"--gpu-layers {request.gpu_layers}: pytorch puts as many layers on the GPU as fit")
    return tuple(notices)
