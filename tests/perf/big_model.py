"""Make a model of random weights that is larger than any cache, with the vocabulary of a real one.

Its answers are noise, but the time of a token is that of a real model of the same shape and types.

Usage: python big_model.py SOURCE.gguf TYPE TARGET.gguf
"""

import sys
from pathlib import Path

import gguf
import numpy as np

__all__ = ["make_big_model"]

LAYERS, WIDTH, INNER, HEADS, KV_HEADS = 24, 1024, 2816, 16, 8
_VOCABULARY_FIELDS = ("tokenizer.", "general.alignment")


def make_big_model(source: Path, kind: str, target: Path) -> None:
    """Write the model: LLaMA's architecture, tied embeddings."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    for field in reader.fields.values():
        if field.name.startswith(_VOCABULARY_FIELDS):
            writer.add_key_value(field.name, field.contents(), field.types[0], *field.types[1:2])
    _add_tensors(writer, kind, len(reader.fields["tokenizer.ggml.tokens"].data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(writer: gguf.GGUFWriter, kind: str, vocabulary: int) -> None:
    quantization = gguf.GGMLQuantizationType[kind]
    numbers = np.random.default_rng(0)
    block = numbers.standard_normal((256, INNER), dtype=np.float32) * 0.02

    def add(name: str, rows: int, columns: int) -> None:
        piece = gguf.quants.quantize(np.roll(block, int(numbers.integers(INNER)), 1)[:, :columns].copy(), quantization)
        data = np.tile(piece, (rows // 256, 1))
        writer.add_tensor(name, data, raw_dtype=quantization)

    add("token_embd.weight", vocabulary, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    kv_width = WIDTH // HEADS * KV_HEADS
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{prefix}{name}.weight", np.ones(WIDTH, np.float32))
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", kv_width, WIDTH),
            ("attn_v", kv_width, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH),
            ("ffn_up", INNER, WIDTH),
            ("ffn_down", WIDTH, INNER),
        ):
            add(f"{prefix}{name}.weight", rows, columns)


if __name__ == "__main__":
    make_big_model(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
