"""Write a tiny model with random weights, to try a freshly built engine on.

Its matrices are of every block format that llama.cpp has special CPU kernels for (repacked, AMX, K-quants), and wide
enough (multiples of 256) that those kernels are really taken. It has no vocabulary: it is only decoded, never read.
The scales are small and fixed, so every logit is finite; the rest is noise from a fixed seed, so every build gets the
same file.

Source of the layouts: llama.cpp, ggml/src/ggml-common.h and docs of the GGUF format (ggml/docs/gguf.md).
"""

import random
import struct
from pathlib import Path

__all__ = ["PROBE_VOCABULARY", "write_probe_model"]

PROBE_VOCABULARY = 256
_WIDTH = 256
_HEADS, _KV_HEADS = 4, 2
_LAYERS = 2
_ALIGNMENT = 32
_STRING, _UINT32, _FLOAT32 = 8, 4, 6  # GGUF value types
_F32 = 0

# name: (GGML type number, weights per block, f16 scales in front, other bytes, f16 scales at the end)
_FORMATS: dict[str, tuple[int, int, int, int, int]] = {
    "Q4_0": (2, 32, 1, 16, 0),
    "Q4_1": (3, 32, 2, 16, 0),
    "Q5_0": (6, 32, 1, 20, 0),
    "Q5_1": (7, 32, 2, 20, 0),
    "Q8_0": (8, 32, 1, 32, 0),
    "Q4_K": (12, 256, 2, 140, 0),
    "Q5_K": (13, 256, 2, 172, 0),
    "Q6_K": (14, 256, 0, 208, 1),
    "IQ4_NL": (20, 32, 1, 16, 0),
}
_SCALE = struct.pack("<e", 2.0**-10)
_KV_WIDTH = _WIDTH // _HEADS * _KV_HEADS
# One layer in the formats that files mostly hold in bulk, one in the others.
_MATRICES: tuple[tuple[str, int, tuple[str, str]], ...] = (
    ("attn_q", _WIDTH, ("Q4_0", "Q5_0")),
    ("attn_k", _KV_WIDTH, ("Q4_1", "IQ4_NL")),
    ("attn_v", _KV_WIDTH, ("Q8_0", "Q5_K")),
    ("attn_output", _WIDTH, ("Q4_K", "Q6_K")),
    ("ffn_gate", _WIDTH, ("Q4_1", "Q8_0")),
    ("ffn_up", _WIDTH, ("Q5_1", "Q4_K")),
    ("ffn_down", _WIDTH, ("Q6_K", "Q5_K")),
)


def write_probe_model(path: Path) -> None:
    """Write the model to a file of about 0.6 MB."""
    noise = random.Random(0)  # noqa: S311 - weights, not secrets
    tensors: list[tuple[str, int, tuple[int, ...], bytes]] = [
        _matrix("token_embd.weight", PROBE_VOCABULARY, "Q8_0", noise),
        _matrix("output.weight", PROBE_VOCABULARY, "Q6_K", noise),
        _ones("output_norm.weight"),
    ]
    for layer in range(_LAYERS):
        tensors.append(_ones(f"blk.{layer}.attn_norm.weight"))
        tensors.append(_ones(f"blk.{layer}.ffn_norm.weight"))
        tensors.extend(
            _matrix(f"blk.{layer}.{name}.weight", rows, formats[layer % 2], noise) for name, rows, formats in _MATRICES
        )
    metadata = _metadata()
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)) + b"".join(metadata)
    offset = 0
    for name, kind, shape, data in tensors:
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += len(data) + -len(data) % _ALIGNMENT
    body = b"".join(data + bytes(-len(data) % _ALIGNMENT) for _, _, _, data in tensors)
    path.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + body)


def _metadata() -> list[bytes]:
    numbers = {
        "block_count": _LAYERS,
        "context_length": 512,
        "embedding_length": _WIDTH,
        "feed_forward_length": _WIDTH,
        "attention.head_count": _HEADS,
        "attention.head_count_kv": _KV_HEADS,
        "rope.dimension_count": _WIDTH // _HEADS,
        "vocab_size": PROBE_VOCABULARY,
    }
    return [
        _string("general.architecture") + struct.pack("<I", _STRING) + _string("llama"),
        _string("tokenizer.ggml.model") + struct.pack("<I", _STRING) + _string("none"),
        _string("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _FLOAT32, 1e-5),
        *(_string(f"llama.{name}") + struct.pack("<II", _UINT32, number) for name, number in numbers.items()),
    ]


def _matrix(name: str, rows: int, fmt: str, noise: random.Random) -> tuple[str, int, tuple[int, ...], bytes]:
    kind, weights, front, other, end = _FORMATS[fmt]
    blocks = rows * _WIDTH // weights
    data = b"".join(_SCALE * front + noise.randbytes(other) + _SCALE * end for _ in range(blocks))
    return name, kind, (_WIDTH, rows), data


def _ones(name: str) -> tuple[str, int, tuple[int, ...], bytes]:
    return name, _F32, (_WIDTH,), struct.pack("<f", 1.0) * _WIDTH


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
