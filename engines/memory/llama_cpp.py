"""What llama.cpp takes for a model and a context, on the processor and divided with GPUs.

On the processor, buffers that llama.cpp reserves and never touches take no memory: it reserves logits for every token
of a batch, and llmrun asks for those of the last one. On a GPU what is reserved is taken.

    KV cache    Σ over layers cells · kv_heads · (k_len + v_len) · b + states
    graph       4·ub·(3F + 4E) + 2·ub·(n' + window cells)        attention wider than that: 4·ub·(3E + 4HD) in its place
    reserved    max(graph, 4·ub·(V + 2E))
    overhead    29 MB + 300·V (a vocabulary with merges) or 80·V + 50·n'

with n' the context rounded up to 256, ub the micro-batch, E the width, F the feed-forward width that one token passes
through, H·D heads times head length, V the vocabulary. Every weight counts once: the file is mapped, and pages of
tensors that were repacked are not read again (0.1 of 76 MB were, in a request on a model that is repacked whole).

Source: the buffer sizes that llama.cpp logs (graph_reserve in llama-context.cpp) for six shapes of models, and the
resident memory of llmrun's worker process on Linux; `docs/memory.md` has the table.
"""

from llmrun.engines.memory.kv import count_cells, estimate_kv_bytes, round_context
from llmrun.engines.memory.types import SHARE, Division, MemoryNeed
from llmrun.models.types import ModelInfo

__all__ = ["ALL_LAYERS", "BATCH_TOKENS", "divide_layers", "estimate_need", "find_gpu_layers"]

ALL_LAYERS = -1
BATCH_TOKENS = 512
_PROCESS_BYTES = 29 * 10**6  # interpreter, libraries, metadata: 14 MB of files and 15 MB of its own
_TOKEN_BYTES_WITH_MERGES, _TOKEN_BYTES = 300, 80  # measured: gpt-2 292, qwen2 302, SmolLM2 305; llama-spm 79
_CELL_BYTES = 50
_SAMPLER_BYTES = 12  # llama_token_data for each token of the vocabulary
_GPU_CONTEXT_BYTES = 500 * 10**6  # driver context and kernels of each GPU; not measured here
_GPU_HOST_BYTES = 250 * 10**6  # the GPU libraries in main memory; not measured here
_UNIFIED_BYTES = 100 * 10**6  # both of them on a GPU that works on main memory; not measured here


def estimate_need(
    info: ModelInfo, context_length: int, kv_type: str = "f16", batch_tokens: int = BATCH_TOKENS
) -> MemoryNeed:
    """Return what llama.cpp takes on the processor."""
    return MemoryNeed(
        weights_bytes=info.tensor_bytes,
        kv_bytes=estimate_kv_bytes(info, context_length, kv_type, batch_tokens),
        compute_bytes=_graph_bytes(info, context_length, batch_tokens) + _SAMPLER_BYTES * info.vocabulary_size,
        overhead_bytes=_overhead_bytes(info, context_length),
    )


def _overhead_bytes(info: ModelInfo, context_length: int) -> int:
    each = _TOKEN_BYTES_WITH_MERGES if info.tokenizer_model in (None, "gpt2") else _TOKEN_BYTES
    return _PROCESS_BYTES + each * info.vocabulary_size + _CELL_BYTES * round_context(context_length)


def _graph_bytes(info: ModelInfo, context_length: int, batch_tokens: int) -> int:
    """Return the compute buffer that a batch really uses: the widest moment of a block, and the attention masks."""
    width = info.embedding_length
    feed_forward = info.feed_forward_length or 8 * width // 3
    attention = 3 * width + 4 * info.heads * max(info.key_length, info.window_key_length or 0)
    cells, windowed = count_cells(info, context_length, batch_tokens)
    masks = cells + (windowed if any(info.sliding_window_layers) else 0)
    return 4 * batch_tokens * max(3 * feed_forward + 4 * width, attention) + 2 * batch_tokens * masks


def divide_layers(
    info: ModelInfo, context_length: int, kv_type: str, layers: int, gpus: int, *, unified: bool = False
) -> Division:
    """Return the need with `layers` of `info.layers` + 1 (the output counts as one) on the GPUs.

    The token embeddings stay in main memory, and are there twice when the output shares them. Source: load_tensors in
    llama-model.cpp.
    """
    need = estimate_need(info, context_length, kv_type)
    if layers == 0 or gpus == 0:
        return Division(need=need, main_bytes=need.total_bytes)
    blocks = max(info.layers, 1)
    share = min(layers, blocks) / blocks
    embeddings = _embedding_bytes(info)
    all_of_them = layers > info.layers
    on_gpu = info.tensor_bytes if all_of_them else int((info.tensor_bytes - embeddings) * share)
    in_main = embeddings if all_of_them else info.tensor_bytes - on_gpu
    kv_on_gpu = int(need.kv_bytes * share)
    reserved = gpus * _reserved_bytes(info, context_length, BATCH_TOKENS)
    driver = _UNIFIED_BYTES if unified else gpus * _GPU_CONTEXT_BYTES
    gpu_bytes = on_gpu + kv_on_gpu + reserved + driver
    overhead = need.overhead_bytes + (0 if unified else _GPU_HOST_BYTES)
    main_bytes = in_main + need.kv_bytes - kv_on_gpu + need.compute_bytes + overhead
    divided = MemoryNeed(
        weights_bytes=on_gpu + in_main,
        kv_bytes=need.kv_bytes,
        compute_bytes=need.compute_bytes + reserved,
        overhead_bytes=overhead + driver,
    )
    gpu_layers = ALL_LAYERS if all_of_them else layers
    return Division(need=divided, main_bytes=main_bytes, gpu_bytes=gpu_bytes, gpu_layers=gpu_layers)


def find_gpu_layers(
    info: ModelInfo, context_length: int, kv_type: str, free_bytes: int, gpus: int, *, unified: bool = False
) -> int:
    """Return the most layers, up to `info.layers` + 1, that fit on the GPUs; 0 when none do."""
    low, high = 0, info.layers + 1
    while low < high:
        middle = (low + high + 1) // 2
        division = divide_layers(info, context_length, kv_type, middle, gpus, unified=unified)
        if division.gpu_bytes <= free_bytes * SHARE:
            low = middle
        else:
            high = middle - 1
    return low


def _embedding_bytes(info: ModelInfo) -> int:
    if not info.parameters:
        return 0
    share = info.vocabulary_size * info.embedding_length / info.parameters
    return int(info.tensor_bytes * min(share, 1.0))


def _reserved_bytes(info: ModelInfo, context_length: int, batch_tokens: int) -> int:
    logits = 4 * batch_tokens * (info.vocabulary_size + 2 * info.embedding_length)
    return max(_graph_bytes(info, context_length, batch_tokens), logits)
