"""What ctransformers takes for a legacy GGML file.

    weights     as stored, mapped
    KV cache    2 bytes an element, of gpt2 and starcoder 4, for every layer and the whole context
    compute     4·ub·max(V + 2E, (H + 1)·n + 5.67E): logits, or attention written out for every head
    overhead    38 MB + 250·V

Source: resident memory of ctransformers 0.2.27 on Linux with a llama of 271 million random 16-bit weights, prompts in
batches of 512; `docs/memory.md` has the figures. Architectures other than llama have their own code in it, which takes
256 MB for evaluation at first, and for gpt2 and replit copies of all values besides: an estimate, not measured. The
sizes of elements are those in models/llms/*.cc of the library.
"""

from llmrun.engines.memory.kv import estimate_kv_bytes
from llmrun.engines.memory.types import Division, MemoryNeed
from llmrun.models.types import ModelInfo

__all__ = ["divide"]

_PROCESS_BYTES = 38 * 10**6
_TOKEN_BYTES = 250
_BATCH_TOKENS = 512
_OTHER_EVALUATION_BYTES = 256 << 20
_KV_OF_32_BITS = frozenset({"gpt2", "starcoder"})
_COPIED_VALUE_BYTES = {"gpt2": 4, "replit": 2}


def divide(info: ModelInfo, context_length: int) -> Division:
    """Return the need: all of it in main memory."""
    need = MemoryNeed(
        weights_bytes=info.tensor_bytes or sum(file.size_bytes for file in info.files),
        kv_bytes=estimate_kv_bytes(info, context_length) * (2 if info.architecture in _KV_OF_32_BITS else 1),
        compute_bytes=_compute_bytes(info, context_length),
        overhead_bytes=_PROCESS_BYTES + _TOKEN_BYTES * info.vocabulary_size,
    )
    return Division(need=need, main_bytes=need.total_bytes)


def _compute_bytes(info: ModelInfo, context_length: int) -> int:
    width = info.embedding_length
    logits = info.vocabulary_size + 2 * width
    attention = (info.heads + 1) * context_length + 17 * width // 3
    needed = 4 * _BATCH_TOKENS * max(logits, attention)
    if info.architecture.lower().startswith("llama"):
        return needed
    copies = _COPIED_VALUE_BYTES.get(info.architecture, 0) * info.layers * context_length * width
    return max(needed, _OTHER_EVALUATION_BYTES, copies)
