"""The size of a KV cache: which layers keep how many cells, and what a cell takes.

Source: llama_kv_cache and llama_kv_cache_iswa in llama.cpp; exact on every model it was compared with.
"""

from llmrun.models.types import ModelInfo

__all__ = ["CONTEXT_STEP", "KV_BYTES", "count_cells", "estimate_kv_bytes", "round_context"]

KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes per element of each KV cache type. Source: block sizes in ggml: 32 elements in 34 (q8_0) or 18 (q4_0) bytes."""

CONTEXT_STEP = 256
"""llama.cpp makes the cells of a cache in multiples of this. Source: GGML_PAD(n_ctx, 256) in llama-context.cpp."""


def round_context(context_length: int) -> int:
    """Return the cells that llama.cpp makes for a context: rounded up to 256."""
    return -(-context_length // CONTEXT_STEP) * CONTEXT_STEP


def count_cells(info: ModelInfo, context_length: int, batch_tokens: int = 512) -> tuple[int, int]:
    """Return the cells of a layer with full attention and of one with a window: min(n', window + batch rounded up)."""
    cells = round_context(context_length)
    return cells, min(cells, round_context((info.sliding_window or 0) + batch_tokens))


def estimate_kv_bytes(
    info: ModelInfo, context_length: int, kv_type: str = "f16", batch_tokens: int = 512, *, element_bytes: float = 0.0
) -> int:
    """Return the size of the KV cache for one sequence, and of the states of layers that have no KV cache.

    Σ over layers cells · kv_heads · (key_length + value_length) · b. `element_bytes` stands in for the `kv_type`.
    """
    cells, windowed = count_cells(info, context_length, batch_tokens)
    element = element_bytes or KV_BYTES[kv_type]
    full_length = info.key_length + info.value_length
    window_key = info.key_length if info.window_key_length is None else info.window_key_length
    window_value = info.value_length if info.window_value_length is None else info.window_value_length
    elements = 0
    for layer, kv_heads in enumerate(info.kv_heads):
        if layer < len(info.sliding_window_layers) and info.sliding_window_layers[layer]:
            elements += windowed * kv_heads * (window_key + window_value)
        else:
            elements += cells * kv_heads * full_length
    return int(elements * element) + info.state_bytes
