"""What transformers takes on PyTorch for a model and a context, on the processor or on one GPU.

    weights       as stored; 16 bits each for a GGUF, which is unpacked; one byte or half of one, with its scales, where
                  bitsandbytes quantizes 16-bit files on loading
    KV cache      2 bytes an element (4 with float32 weights); a window bounds its layers
    activations   2.5 · n · (3F + 4E) elements for a prompt of n tokens, which goes through at once
    overhead      375 MB: interpreter, torch, transformers

Scaled dot-product attention ("sdpa") is assumed: written out, attention takes a matrix of n² for every head as well.

Source: resident memory of torch 2.13.0 (CPU) with transformers 5.19.0 on a 2-core machine, SmolLM2-135M in bfloat16
and float32, prompts of 1,024 to 8,192 tokens: activations took 1.3 to 4 times n · (3F + 4E) elements, differing from
run to run as the allocator gives memory back; `docs/memory.md` has the table. GPU figures are estimates.
"""

from llmrun.engines.memory.kv import estimate_kv_bytes
from llmrun.engines.memory.types import Division, MemoryNeed
from llmrun.models.types import ModelFormat, ModelInfo

__all__ = ["count_weights_bytes", "divide"]

_PROCESS_BYTES = 375 * 10**6
_GPU_CONTEXT_BYTES = 500 * 10**6  # CUDA context and the kernels of torch; not measured here
_GPU_HOST_BYTES = 1_500 * 10**6  # torch with CUDA keeps its libraries in main memory; not measured here
_ACTIVATION_FACTOR = 2.5
_NO_WINDOW_BATCH = 0
_WIDE = frozenset({"F32", "BF16", "F16"})


def divide(info: ModelInfo, context_length: int, *, on_gpu: bool) -> Division:
    """Return the need, in main memory or on a GPU."""
    element = 4 if _stored_as_float32(info) else 2
    width, feed_forward = info.embedding_length, info.feed_forward_length or 8 * info.embedding_length // 3
    elements = context_length * (3 * feed_forward + 4 * width)
    kv_bytes = estimate_kv_bytes(info, context_length, batch_tokens=_NO_WINDOW_BATCH, element_bytes=float(element))
    need = MemoryNeed(
        weights_bytes=count_weights_bytes(info),
        kv_bytes=kv_bytes,
        compute_bytes=int(elements * element * _ACTIVATION_FACTOR) + 4 * info.vocabulary_size,
        overhead_bytes=_PROCESS_BYTES + (_GPU_HOST_BYTES + _GPU_CONTEXT_BYTES if on_gpu else 0),
    )
    if not on_gpu:
        return Division(need=need, main_bytes=need.total_bytes)
    main_bytes = _PROCESS_BYTES + _GPU_HOST_BYTES
    return Division(need=need, main_bytes=main_bytes, gpu_bytes=need.total_bytes - main_bytes, gpu_layers=-1)


def count_weights_bytes(info: ModelInfo) -> int:
    """Return what the weights take once they are loaded."""
    if info.format in (ModelFormat.GGUF, ModelFormat.GGML):
        return 2 * info.parameters
    wide = all(name.upper() in _WIDE for name, _ in info.tensor_types)
    if wide and (per_weight := _bytes_when_quantized(info.quantization)):
        embeddings = min(info.vocabulary_size * info.embedding_length, info.parameters)
        return int(2 * embeddings + per_weight * (info.parameters - embeddings))
    return info.tensor_bytes


def _bytes_when_quantized(quantization: str | None) -> float | None:
    """Return the bytes per weight that bitsandbytes stores: 4 bits with a 32-bit scale for 64 weights, or 8 bits."""
    name = (quantization or "").lower()
    if name in ("4-bit", "int4", "nf4", "fp4"):
        return 0.5 + 4 / 64
    return 1.0 if name in ("8-bit", "int8") else None


def _stored_as_float32(info: ModelInfo) -> bool:
    return info.format is ModelFormat.PYTORCH and bool(info.tensor_types) and info.tensor_types[0][0].upper() == "F32"
