"""What ctransformers takes for a legacy GGML file: an estimate from the code of its time, not measured.

The weights are mapped, keys and values are 16-bit for every cell, and scratch buffers have a size for each class of
model, whatever the context. Source: MEM_REQ_SCRATCH0, MEM_REQ_SCRATCH1 and MEM_REQ_EVAL in llama.cpp of August 2023,
which ctransformers 0.2.27 carries as llama-ggml; the other architectures of that time start with 256 MB for evaluation.
"""

from llmrun.engines.memory_kv import estimate_kv_bytes
from llmrun.engines.memory_types import Division, MemoryNeed
from llmrun.models.types import ModelInfo

__all__ = ["divide"]

_MIB = 1 << 20
_PROCESS_BYTES = 70 * 10**6  # interpreter, huggingface_hub and the library
_TOKEN_BYTES = 150
# Blocks of a llama, scratch for a batch in MiB, cells to a further MiB of it, second scratch, evaluation.
_CLASSES = (
    (26, 92, 16, 128, 8),
    (32, 100, 16, 160, 10),
    (40, 120, 12, 192, 12),
    (60, 160, 9, 256, 16),
    (1 << 30, 256, 6, 384, 24),
)
_OTHER_EVALUATION_BYTES = 256 * _MIB


def divide(info: ModelInfo, context_length: int) -> Division:
    """Return the need: all of it in main memory."""
    need = MemoryNeed(
        weights_bytes=info.tensor_bytes or sum(file.size_bytes for file in info.files),
        kv_bytes=estimate_kv_bytes(info, context_length),
        compute_bytes=_scratch_bytes(info, context_length),
        overhead_bytes=_PROCESS_BYTES + _TOKEN_BYTES * info.vocabulary_size,
    )
    return Division(need=need, main_bytes=need.total_bytes)


def _scratch_bytes(info: ModelInfo, context_length: int) -> int:
    if not info.architecture.lower().startswith("llama"):
        return _OTHER_EVALUATION_BYTES
    _, first, cells, second, evaluation = next(row for row in _CLASSES if info.layers <= row[0])
    return (first + context_length // cells + second + evaluation) * _MIB
