"""What vLLM takes for a model and one sequence of a context: an estimate from its rules, not measured.

vLLM takes a share of the GPU's total memory (gpu_memory_utilization), refuses to start when less than that is free,
loads the weights, runs the largest batch once to see what activations take, and makes KV cache of all that is left; it
refuses a context that this cache cannot hold. So the need is what that share must at least have room for:

    weights      as stored
    KV cache     Σ over layers n · kv_heads · (k_len + v_len) · 2; on the GPU in blocks of 16 tokens
    activations  4 · t · (3F + 4E) + 4 · s · V for the profiled batch of t = 8,192 tokens with s = 256 sequences
    overhead     CUDA context 0.5 GB, captured CUDA graphs 0.6 GB; in main memory two processes of about 2 GB

On a CPU build the KV cache is VLLM_CPU_KVCACHE_SPACE, in whole GiB, in main memory.

Source: request_memory and determine_available_memory in vllm/v1/worker (gpu_worker.py, utils.py), memory_profiling in
vllm/utils/mem_utils.py, cpu_worker.py, SchedulerConfig defaults.
"""

from llmrun.engines.memory.kv import estimate_kv_bytes
from llmrun.engines.memory.types import Division, MemoryNeed
from llmrun.models.types import ModelInfo

__all__ = ["HOST_BYTES", "divide"]

_GIB = 1 << 30
_PROFILED_TOKENS = 8192
_PROFILED_SEQUENCES = 256
_GPU_OVERHEAD_BYTES = 1_100 * 10**6
HOST_BYTES = 4_000 * 10**6
_CPU_PROCESS_BYTES = 2_500 * 10**6
_BLOCK_TOKENS = 16


def divide(info: ModelInfo, context_length: int, *, on_gpu: bool) -> Division:
    """Return the need, on a GPU or, for a CPU build, in main memory."""
    blocks = -(-context_length // _BLOCK_TOKENS)
    kv_bytes = estimate_kv_bytes(info, blocks * _BLOCK_TOKENS, batch_tokens=_PROFILED_TOKENS if on_gpu else 2048)
    if not on_gpu:
        kv_bytes = -(-kv_bytes // _GIB) * _GIB
    feed_forward = info.feed_forward_length or 8 * info.embedding_length // 3
    tokens = _PROFILED_TOKENS if on_gpu else 2048
    activations = 4 * tokens * (3 * feed_forward + 4 * info.embedding_length)
    need = MemoryNeed(
        weights_bytes=info.tensor_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=activations + 4 * _PROFILED_SEQUENCES * info.vocabulary_size,
        overhead_bytes=HOST_BYTES + _GPU_OVERHEAD_BYTES if on_gpu else _CPU_PROCESS_BYTES,
    )
    if not on_gpu:
        return Division(need=need, main_bytes=need.total_bytes)
    return Division(need=need, main_bytes=HOST_BYTES, gpu_bytes=need.total_bytes - HOST_BYTES, gpu_layers=-1)
