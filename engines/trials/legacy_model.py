"""Write tiny models of the formats before GGUF, with random weights, to try an engine on that reads them.

One is a Llama whose matrices are of every quantization that such files have, the other a GPT-2 in float16, because the
two run through different code. They are wide enough (256) for the K-quants. The scales are small and fixed, so every
logit is finite; the rest is noise from a fixed seed, so it is the same file every time.

Source of the block layouts: ggml.c and k_quants.h of llama.cpp, July 2023; they are those of GGUF.
"""

import random
import struct

from llmrun.models.ggml_writer import GgmlTensor, LlamaShape, write_ggjt_llama, write_ggml

__all__ = ["PROBE_TOKENS", "legacy_gpt2", "legacy_llama"]

PROBE_TOKENS = 259
"""Entries of both vocabularies: three special ones, then the 256 bytes."""
_WIDTH, _HEADS, _CONTEXT = 256, 4, 64
_F32, _F16 = 0, 1
# name: (GGML type number, weights per block, f16 scales in front, other bytes, f16 scales at the end)
_FORMATS: dict[str, tuple[int, int, int, int, int]] = {
    "Q4_0": (2, 32, 1, 16, 0),
    "Q4_1": (3, 32, 2, 16, 0),
    "Q5_0": (6, 32, 1, 20, 0),
    "Q5_1": (7, 32, 2, 20, 0),
    "Q8_0": (8, 32, 1, 32, 0),
    "Q2_K": (10, 256, 0, 80, 2),
    "Q3_K": (11, 256, 0, 108, 1),
    "Q4_K": (12, 256, 2, 140, 0),
    "Q5_K": (13, 256, 2, 172, 0),
    "Q6_K": (14, 256, 0, 208, 1),
}
_SCALE = struct.pack("<e", 2.0**-10)
_HALVES = tuple(struct.pack("<e", (byte - 127.5) / 1024) for byte in range(256))
_LLAMA = LlamaShape(embedding_length=_WIDTH, multiple=256, heads=_HEADS, layers=2, rope_dimensions=64, file_type=2)
_LLAMA_MATRICES: tuple[tuple[str, int, int, tuple[str, str]], ...] = (
    ("attention.wq", _WIDTH, _WIDTH, ("Q4_0", "Q2_K")),
    ("attention.wk", _WIDTH, _WIDTH, ("Q4_1", "Q3_K")),
    ("attention.wv", _WIDTH, _WIDTH, ("Q8_0", "F16")),
    ("attention.wo", _WIDTH, _WIDTH, ("Q5_0", "Q4_K")),
    ("feed_forward.w1", _WIDTH, _LLAMA.feed_forward_length, ("Q5_1", "Q6_K")),
    ("feed_forward.w2", _LLAMA.feed_forward_length, _WIDTH, ("Q4_0", "Q5_K")),
    ("feed_forward.w3", _WIDTH, _LLAMA.feed_forward_length, ("Q8_0", "Q4_K")),
)
_GPT2_MATRICES: tuple[tuple[str, int, int], ...] = (
    ("attn/c_attn", _WIDTH, 3 * _WIDTH),
    ("attn/c_proj", _WIDTH, _WIDTH),
    ("mlp/c_fc", _WIDTH, 4 * _WIDTH),
    ("mlp/c_proj", 4 * _WIDTH, _WIDTH),
)


def legacy_llama() -> bytes:
    """Return a Llama as a `ggjt` version 3 file of about 1 MB."""
    noise = random.Random(0)  # noqa: S311 - weights, not secrets
    tensors = [
        _matrix("tok_embeddings.weight", _WIDTH, PROBE_TOKENS, "Q4_0", noise),
        _vector("norm.weight", _WIDTH, 1.0),
        _matrix("output.weight", _WIDTH, PROBE_TOKENS, "Q6_K", noise),
    ]
    for layer in range(_LLAMA.layers):
        tensors += [
            _vector(f"layers.{layer}.attention_norm.weight", _WIDTH, 1.0),
            _vector(f"layers.{layer}.ffn_norm.weight", _WIDTH, 1.0),
        ]
        tensors += [
            _matrix(f"layers.{layer}.{name}.weight", columns, rows, formats[layer], noise)
            for name, columns, rows, formats in _LLAMA_MATRICES
        ]
    return write_ggjt_llama(_LLAMA, [(token, 0.0) for token in _vocabulary()], tensors)


def legacy_gpt2() -> bytes:
    """Return a GPT-2 of one layer as an unversioned `ggml` file of about 1.8 MB, in float16."""
    noise = random.Random(0)  # noqa: S311 - weights, not secrets
    tensors = [
        _matrix("model/wte", _WIDTH, PROBE_TOKENS, "F16", noise),
        GgmlTensor(name="model/wpe", type_number=_F32, shape=(_WIDTH, _CONTEXT), data=bytes(4 * _WIDTH * _CONTEXT)),
        *_norm("model/ln_f"),
        *_norm("model/h0/ln_1"),
        *_norm("model/h0/ln_2"),
    ]
    for name, columns, rows in _GPT2_MATRICES:
        tensors.append(_matrix(f"model/h0/{name}/w", columns, rows, "F16", noise))
        tensors.append(_vector(f"model/h0/{name}/b", rows, 0.0))
    return write_ggml((PROBE_TOKENS, _CONTEXT, _WIDTH, _HEADS, 1, _F16), _vocabulary(), tensors)


def _vocabulary() -> list[bytes]:
    return [b"<unk>", b"<s>", b"</s>", *(bytes([byte]) for byte in range(256))]


def _norm(name: str) -> tuple[GgmlTensor, GgmlTensor]:
    return _vector(f"{name}/g", _WIDTH, 1.0), _vector(f"{name}/b", _WIDTH, 0.0)


def _vector(name: str, length: int, value: float) -> GgmlTensor:
    return GgmlTensor(name=name, type_number=_F32, shape=(length,), data=struct.pack("<f", value) * length)


def _matrix(name: str, columns: int, rows: int, fmt: str, noise: random.Random) -> GgmlTensor:
    if fmt == "F16":
        data = b"".join(_HALVES[byte] for byte in noise.randbytes(columns * rows))
        return GgmlTensor(name=name, type_number=_F16, shape=(columns, rows), data=data)
    kind, weights, front, other, end = _FORMATS[fmt]
    blocks = rows * columns // weights
    data = b"".join(_SCALE * front + noise.randbytes(other) + _SCALE * end for _ in range(blocks))
    return GgmlTensor(name=name, type_number=kind, shape=(columns, rows), data=data)
