"""Make GGUF models of chosen shapes with random weights in any common tensor type, for tests that measure memory.

The weights are random bits under small block scales: every value is finite and means nothing. The vocabulary has as
many tokens and merges as it is told, because llama.cpp's tables for them take memory too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf_builder import byte_characters

# Bytes of a block, weights of a block, and where in it the float16 scales are. Source: ggml's block structures.
_BLOCKS = {
    "Q4_0": (18, 32, (0,)),
    "Q8_0": (34, 32, (0,)),
    "Q4_K": (144, 256, (0, 2)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of a model; `experts` 0 makes a dense one, `window` 0 one with full attention."""

    architecture: str = "llama"
    tensor_type: str = "Q8_0"
    layers: int = 4
    width: int = 512
    heads: int = 8
    kv_heads: int = 4
    head_length: int = 64
    feed_forward: int = 1536
    vocabulary: int = 4096
    context_length: int = 16384
    experts: int = 0
    experts_used: int = 0
    window: int = 0


def write_random_gguf(path: Path, shape: Shape, *, seed: int = 0) -> Path:
    """Write the model, and return its path."""
    import gguf

    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, shape.architecture)
    _write_metadata(writer, shape)
    for name, rows in _matrices(shape):
        data = _random_blocks(random, rows, shape.tensor_type)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[shape.tensor_type])
    for name, length in _vectors(shape):
        writer.add_tensor(name, np.ones(length, np.float32))
    for layer in range(shape.layers if shape.experts else 0):
        gate = random.standard_normal((shape.experts, shape.width)) * 0.02
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", gate.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_metadata(writer: Any, shape: Shape) -> None:
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_length)
    writer.add_value_length(shape.head_length)
    writer.add_layer_norm_rms_eps(1e-5)
    if shape.window:
        writer.add_sliding_window(shape.window)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.feed_forward)
    tokens, merges = _vocabulary(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)


def _vocabulary(count: int) -> tuple[list[str], list[str]]:
    """Return tokens of about the lengths of real ones, and a merge for each that is no single byte."""
    letters = byte_characters()
    tokens = ["<|start|>", "<|end|>", *letters]
    merges = []
    index = 0
    while len(tokens) < count:
        number, left = index, ""
        while number or len(left) < 3:
            left += chr(ord("a") + number % 26)
            number //= 26
        token = f"{left}{chr(ord('a') + index % 26)}"
        merges.append(f"{left} {token[len(left) :]}")
        tokens.append(token)
        index += 1
    return tokens, merges


def _matrices(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes, the slowest dimension first."""
    width, inner = shape.width, shape.feed_forward
    queries, keys = shape.heads * shape.head_length, shape.kv_heads * shape.head_length
    found: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (shape.vocabulary, width)),
        ("output.weight", (shape.vocabulary, width)),
    ]
    suffix, experts = ("_exps", (shape.experts,)) if shape.experts else ("", ())
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        found += [
            (f"{prefix}attn_q.weight", (queries, width)),
            (f"{prefix}attn_k.weight", (keys, width)),
            (f"{prefix}attn_v.weight", (keys, width)),
            (f"{prefix}attn_output.weight", (width, queries)),
            (f"{prefix}ffn_gate{suffix}.weight", (*experts, inner, width)),
            (f"{prefix}ffn_up{suffix}.weight", (*experts, inner, width)),
            (f"{prefix}ffn_down{suffix}.weight", (*experts, width, inner)),
        ]
    return found


def _vectors(shape: Shape) -> list[tuple[str, int]]:
    names = ["attn_norm", "ffn_norm"]
    if shape.architecture == "gemma3":
        names += ["post_attention_norm", "post_ffw_norm"]
    found = [("output_norm.weight", shape.width)]
    for layer in range(shape.layers):
        found += [(f"blk.{layer}.{name}.weight", shape.width) for name in names]
        if shape.architecture in ("gemma3", "qwen3moe"):
            found += [(f"blk.{layer}.attn_{name}_norm.weight", shape.head_length) for name in "qk"]
    return found


def _random_blocks(random: Any, rows: tuple[int, ...], tensor_type: str) -> Any:
    size, weights, scales = _BLOCKS[tensor_type]
    blocks = rows[-1] // weights
    count = int(np.prod(rows[:-1])) * blocks
    data = random.integers(0, 256, (count, size), dtype=np.uint8)
    small = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    for offset in scales:
        data[:, offset : offset + 2] = small
    return data.reshape(*rows[:-1], blocks * size)
