"""Sizes that memory plans need and that no single key of a GGUF header states: experts, feed-forward width, states.

Source of the formulas: llama.cpp, in the version that llama-cpp-python 0.3.36 carries, functions named below.
"""

from llmrun.models.gguf.layers import is_recurrent
from llmrun.models.gguf.types import GgufHeader
from llmrun.models.gguf.values import find_whole, find_whole_or_each

__all__ = ["read_expert_bytes", "read_feed_forward_length", "read_state_bytes"]

_F32_BYTES = 4
_DEFAULT_TOKEN_SHIFTS = 2  # Source: token_shift_count in llama-hparams.h
# Attention and recurrence stand side by side in every block. Source: is_recr_impl in falcon-h1.cpp
_BOTH_IN_EVERY_BLOCK = frozenset({"falcon-h1"})


def read_expert_bytes(header: GgufHeader) -> int:
    """Return the bytes of the tensors that are divided among experts: those named `…_exps`."""
    return sum(tensor.size_bytes for tensor in header.tensors if "_exps." in tensor.name)


def read_feed_forward_length(header: GgufHeader, architecture: str, blocks: int) -> int:
    """Return the width of the widest feed-forward part that one token passes through; 0 when the header does not say.

    Raises:
        ModelFileError: A key that tells it has an impossible type or length.
    """
    dense = max(find_whole_or_each(header, f"{architecture}.feed_forward_length", blocks) or (0,))
    each = max(find_whole_or_each(header, f"{architecture}.expert_feed_forward_length", blocks) or (0,))
    used = max(find_whole_or_each(header, f"{architecture}.expert_used_count", blocks) or (0,))
    shared = max(find_whole_or_each(header, f"{architecture}.expert_shared_feed_forward_length", blocks) or (0,))
    return max(dense * (used if used and not each else 1), used * each + shared)


def read_state_bytes(header: GgufHeader, architecture: str, kv_heads: tuple[int, ...]) -> int:
    """Return the bytes of the states that recurrent layers keep for one sequence, in 32-bit floats.

    A layer without KV heads counts as recurrent, also where it has neither, so this is an upper bound for nemotron_h.
    Source: n_embd_r and n_embd_s in llama-hparams.cpp, llama_memory_recurrent in llama-memory-recurrent.cpp.

    Raises:
        ModelFileError: A key that tells it has an impossible type.
    """
    elements = _convolution_elements(header, architecture) + _recurrence_elements(header, architecture)
    if architecture in _BOTH_IN_EVERY_BLOCK or is_recurrent(architecture):
        return _F32_BYTES * elements * len(kv_heads)
    return _F32_BYTES * elements * sum(1 for heads in kv_heads if heads == 0)


def _convolution_elements(header: GgufHeader, architecture: str) -> int:
    embedding = find_whole(header, f"{architecture}.embedding_length") or 0
    if find_whole(header, f"{architecture}.wkv.head_size"):
        shifts = find_whole(header, f"{architecture}.token_shift_count")
        return embedding * (_DEFAULT_TOKEN_SHIFTS if shifts is None else shifts)
    if short := find_whole(header, f"{architecture}.shortconv.l_cache"):
        return embedding * (short - 1)
    kernel = find_whole(header, f"{architecture}.ssm.conv_kernel") or 0
    if head := find_whole(header, f"{architecture}.kda.head_dim"):
        return 3 * (kernel - 1 if kernel else 3) * _heads(header, architecture) * head
    inner, state, groups = (
        find_whole(header, f"{architecture}.ssm.{name}") or 0 for name in ("inner_size", "state_size", "group_count")
    )
    return max(kernel - 1, 0) * (inner + 2 * groups * state)


def _recurrence_elements(header: GgufHeader, architecture: str) -> int:
    if size := find_whole(header, f"{architecture}.wkv.head_size"):
        return (find_whole(header, f"{architecture}.embedding_length") or 0) * size
    if head := find_whole(header, f"{architecture}.kda.head_dim"):
        return head * head * _heads(header, architecture)
    if architecture == "minimax-01":
        head = find_whole(header, f"{architecture}.attention.key_length") or 0
        return head * head * _heads(header, architecture)
    inner = find_whole(header, f"{architecture}.ssm.inner_size") or 0
    return inner * (find_whole(header, f"{architecture}.ssm.state_size") or 0)


def _heads(header: GgufHeader, architecture: str) -> int:
    value = header.metadata.get(f"{architecture}.attention.head_count")
    return value if isinstance(value, int) else 0
