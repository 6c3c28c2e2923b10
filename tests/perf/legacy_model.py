"""Make models of random weights in the formats before GGUF, with some hundred million of them.

Their answers are noise, but the time of a token is that of a real model of the same shape and types: one llama, one
GPT-2 (the shape of the small one), because the two run through different code.

Usage: python legacy_model.py llama|gpt2 TARGET.bin
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from llmrun.models.ggml_writer import GgmlTensor, LlamaShape, write_ggjt_llama, write_ggml

__all__ = ["KINDS", "make_legacy_model"]

KINDS = ("llama", "gpt2")
_LAYERS, _WIDTH, _HEADS, _CONTEXT = 12, 768, 12, 1024
_LLAMA_VOCABULARY, _GPT2_VOCABULARY = 32_000, 50_257
_F32, _Q4_0 = 0, 2
_GPT2_Q4_0 = 2002  # the file type, with the version of the blocks
_PIECE_ROWS = 256


def make_legacy_model(kind: str, target: Path) -> None:
    """Write the model: all matrices are Q4_0."""
    target.write_bytes(_llama() if kind == "llama" else _gpt2())


def _llama() -> bytes:
    shape = LlamaShape(
        embedding_length=_WIDTH,
        multiple=256,
        heads=_HEADS,
        layers=_LAYERS,
        rope_dimensions=_WIDTH // _HEADS,
        file_type=2,
    )
    tokens = [b" \xe2\x81\x87 ", b"", b"", *(bytes([byte]) for byte in range(256))]
    tokens += _words(_LLAMA_VOCABULARY - len(tokens))
    return write_ggjt_llama(
        shape, [(token, -float(index)) for index, token in enumerate(tokens)], _llama_tensors(shape)
    )


def _llama_tensors(shape: LlamaShape) -> Iterator[GgmlTensor]:
    noise = np.random.default_rng(0)
    inner = shape.feed_forward_length
    yield _matrix("tok_embeddings.weight", _WIDTH, _LLAMA_VOCABULARY, noise)
    yield _matrix("output.weight", _WIDTH, _LLAMA_VOCABULARY, noise, silent_rows=2 * _PIECE_ROWS)
    yield _vector("norm.weight", _WIDTH, 1.0)
    for layer in range(_LAYERS):
        for name in ("attention_norm", "ffn_norm"):
            yield _vector(f"layers.{layer}.{name}.weight", _WIDTH, 1.0)
        for name in ("wq", "wk", "wv", "wo"):
            yield _matrix(f"layers.{layer}.attention.{name}.weight", _WIDTH, _WIDTH, noise)
        for name, columns, rows in (("w1", _WIDTH, inner), ("w2", inner, _WIDTH), ("w3", _WIDTH, inner)):
            yield _matrix(f"layers.{layer}.feed_forward.{name}.weight", columns, rows, noise)


def _gpt2() -> bytes:
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [*_words(_GPT2_VOCABULARY - 257), b"<|endoftext|>"]
    return write_ggml((_GPT2_VOCABULARY, _CONTEXT, _WIDTH, _HEADS, _LAYERS, _GPT2_Q4_0), tokens, _gpt2_tensors())


def _gpt2_tensors() -> Iterator[GgmlTensor]:
    noise = np.random.default_rng(0)
    yield _matrix("model/wte", _WIDTH, _GPT2_VOCABULARY, noise, silent_rows=2 * _PIECE_ROWS)
    places = noise.standard_normal((_CONTEXT, _WIDTH), dtype=np.float32) * 0.02
    yield GgmlTensor(name="model/wpe", type_number=_F32, shape=(_WIDTH, _CONTEXT), data=places.tobytes())
    yield _vector("model/ln_f/g", _WIDTH, 1.0)
    yield _vector("model/ln_f/b", _WIDTH, 0.0)
    matrices = (
        ("attn/c_attn", _WIDTH, 3 * _WIDTH),
        ("attn/c_proj", _WIDTH, _WIDTH),
        ("mlp/c_fc", _WIDTH, 4 * _WIDTH),
        ("mlp/c_proj", 4 * _WIDTH, _WIDTH),
    )
    for layer in range(_LAYERS):
        for name in ("ln_1", "ln_2"):
            yield _vector(f"model/h{layer}/{name}/g", _WIDTH, 1.0)
            yield _vector(f"model/h{layer}/{name}/b", _WIDTH, 0.0)
        for name, columns, rows in matrices:
            yield _matrix(f"model/h{layer}/{name}/w", columns, rows, noise)
            yield _vector(f"model/h{layer}/{name}/b", rows, 0.0)


def _words(count: int) -> Iterator[bytes]:
    """Yield words that are all different, a space in front of each."""
    for index in range(count):
        yield f" {index:x}".encode()


def _vector(name: str, length: int, value: float) -> GgmlTensor:
    data = np.full(length, value, dtype=np.float32).tobytes()
    return GgmlTensor(name=name, type_number=_F32, shape=(length,), data=data)


def _matrix(name: str, columns: int, rows: int, noise: np.random.Generator, silent_rows: int = 0) -> GgmlTensor:
    """Return random weights of a real model's size: a piece of them, repeated.

    The first `silent_rows` are zero: tokens that are single bytes are not chosen, so that all text is whole.
    """
    piece = noise.standard_normal((_PIECE_ROWS, columns), dtype=np.float32) * 0.02
    blocks = gguf.quants.quantize(piece, gguf.GGMLQuantizationType.Q4_0)
    data = np.tile(blocks, (-(-rows // _PIECE_ROWS), 1))[:rows]
    data[:silent_rows] = 0
    return GgmlTensor(name=name, type_number=_Q4_0, shape=(columns, rows), data=data.tobytes())


if __name__ == "__main__":
    make_legacy_model(sys.argv[1], Path(sys.argv[2]))
