"""Write SmolLM2 as a `ggjt` file, so that ctransformers, which reads nothing newer, computes with the same weights.

The blocks are copied as they are. The format knows neither heads that share keys and values, which are written once for
each head that uses them, nor an output that is the embedding, which is written twice: the file does the arithmetic of
the model with more bytes. It has no base frequency of the rotary embedding either (the loader takes 10,000, the model
was trained with 100,000), so its answers are not the model's; its times are those of these weights.

Usage: python legacy_smollm2.py MODEL.gguf TARGET.bin
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from llmrun.models.ggml_writer import GgmlTensor, LlamaShape, write_ggjt_llama

__all__ = ["write_legacy_smollm2"]

_MULTIPLE = 256
_Q4_1_FILE = 3
_LAYER_NAMES = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
}


def write_legacy_smollm2(source: Path, target: Path) -> None:
    """Write the file.

    Raises:
        ValueError: The model is not shaped as the format's loader computes it.
    """
    reader = gguf.GGUFReader(source)
    heads, groups = _number(reader, "llama.attention.head_count"), _number(reader, "llama.attention.head_count_kv")
    shape = LlamaShape(
        embedding_length=_number(reader, "llama.embedding_length"),
        multiple=_MULTIPLE,
        heads=heads,
        layers=_number(reader, "llama.block_count"),
        rope_dimensions=_number(reader, "llama.rope.dimension_count"),
        file_type=_Q4_1_FILE,
    )
    if shape.feed_forward_length != _number(reader, "llama.feed_forward_length"):
        raise ValueError(f"{source}: the feed-forward length is not what a ggjt loader computes")
    target.write_bytes(write_ggjt_llama(shape, _vocabulary(reader), _tensors(reader, heads // groups, groups)))


def _number(reader: gguf.GGUFReader, key: str) -> int:
    return int(reader.fields[key].contents())


def _vocabulary(reader: gguf.GGUFReader) -> list[tuple[bytes, float]]:
    """Return the tokens as bytes: those of byte-level BPE are written with a letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(256 + index): byte for index, byte in enumerate(set(range(256)) - set(printable))}
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    return [(bytes(letters.get(letter, 63) for letter in token), -float(index)) for index, token in enumerate(tokens)]


def _tensors(reader: gguf.GGUFReader, repeats: int, groups: int) -> Iterator[GgmlTensor]:
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            rows = tensor.data
            if parts[2] in ("attn_k", "attn_v"):
                rows = np.repeat(rows.reshape(groups, -1, rows.shape[-1]), repeats, axis=0).reshape(-1, rows.shape[-1])
            yield _tensor(f"layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.weight", tensor, rows)
        elif parts[0] == "output_norm":
            yield _tensor("norm.weight", tensor, tensor.data)
        elif parts[0] == "token_embd":
            yield _tensor("tok_embeddings.weight", tensor, tensor.data)
            yield _tensor("output.weight", tensor, tensor.data)


def _tensor(name: str, tensor: gguf.ReaderTensor, rows: np.ndarray) -> GgmlTensor:
    columns = int(tensor.shape[0])
    shape = (columns,) if rows.ndim == 1 else (columns, rows.shape[0])
    return GgmlTensor(name=name, type_number=int(tensor.tensor_type), shape=shape, data=rows.tobytes())


if __name__ == "__main__":
    write_legacy_smollm2(Path(sys.argv[1]), Path(sys.argv[2]))
