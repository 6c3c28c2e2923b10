"""Make Hugging Face model folders for tests, in memory or on disk: config.json and safetensors files of zeros.

In memory only the headers are kept, so that a folder of a hundred gigabytes costs nothing.
"""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BITS = {"F4": 4, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E8M0": 8, "BOOL": 8, "BF16": 16, "F16": 16, "F32": 32, "I32": 32}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    bits = BITS[dtype]
    for dimension in shape:
        bits *= dimension
    return bits // 8


def rows_of(tensors: Tensors) -> dict[str, Any]:
    """The rows of a header, one tensor after the other."""
    rows: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + size_of(dtype, shape)
        rows[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return rows


def header_of(rows: Any) -> bytes:
    text = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return len(text).to_bytes(8, "little") + text


def data_bytes(tensors: Tensors) -> int:
    return sum(size_of(dtype, shape) for dtype, shape in tensors.values())


class MemoryFolder:
    """A `FileSource` of files whose first bytes are kept; the rest of each is zeros."""

    def __init__(self) -> None:
        self.path = Path("acme/model")
        self.sizes: dict[str, int] = {}
        self.heads: dict[str, bytes] = {}
        self.reads: list[tuple[str, int, int]] = []

    def put(self, name: str, content: bytes | str | Mapping[str, Any], size_bytes: int | None = None) -> "MemoryFolder":
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.heads[name] = content
        self.sizes[name] = len(content) if size_bytes is None else size_bytes
        return self

    def put_tensors(self, name: str, tensors: Tensors) -> "MemoryFolder":
        header = header_of(rows_of(tensors))
        return self.put(name, header, len(header) + data_bytes(tensors))

    def drop(self, name: str) -> "MemoryFolder":
        del self.heads[name], self.sizes[name]
        return self

    def read(self, name: str, start: int, length: int) -> bytes:
        self.reads.append((name, start, length))
        end = min(start + length, self.sizes[name])
        piece = self.heads[name][start:end]
        return piece + bytes(max(end - start - len(piece), 0))

    def write(self, folder: Path) -> Path:
        """Put the folder on the disk, with holes for the zeros."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, head in self.heads.items():
            with (folder / name).open("wb") as file:
                file.write(head)
                file.truncate(self.sizes[name])
        return folder


def llama_tensors(
    *,
    layers: int,
    width: int,
    kv_width: int,
    feed_forward: int,
    vocabulary: int,
    query_width: int | None = None,
    experts: int = 0,
    tied: bool = False,
    bias: bool = False,
    extra: tuple[tuple[str, int], ...] = (),
    prefix: str = "model.",
    dtype: str = "BF16",
) -> Tensors:
    """The tensors of Llama and of what is built like it."""
    query = width if query_width is None else query_width
    found: Tensors = {f"{prefix}embed_tokens.weight": (dtype, (vocabulary, width))}
    for index in range(layers):
        layer = f"{prefix}layers.{index}."
        for name, rows in (("q", query), ("k", kv_width), ("v", kv_width)):
            found[f"{layer}self_attn.{name}_proj.weight"] = (dtype, (rows, width))
            if bias:
                found[f"{layer}self_attn.{name}_proj.bias"] = (dtype, (rows,))
        found[f"{layer}self_attn.o_proj.weight"] = (dtype, (width, query))
        if experts:
            found[f"{layer}block_sparse_moe.gate.weight"] = (dtype, (experts, width))
            shapes = {"w1": (feed_forward, width), "w2": (width, feed_forward), "w3": (feed_forward, width)}
            for expert, name in itertools.product(range(experts), shapes):
                found[f"{layer}block_sparse_moe.experts.{expert}.{name}.weight"] = (dtype, shapes[name])
        else:
            for name in ("gate", "up"):
                found[f"{layer}mlp.{name}_proj.weight"] = (dtype, (feed_forward, width))
            found[f"{layer}mlp.down_proj.weight"] = (dtype, (width, feed_forward))
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}{name}.weight"] = (dtype, (width,))
        for name, size in extra:
            found[f"{layer}{name}"] = (dtype, (size,))
    found[f"{prefix}norm.weight"] = (dtype, (width,))
    if not tied:
        found["lm_head.weight"] = (dtype, (vocabulary, width))
    return found


def sketch(
    layers: int, table: str, vocabulary: int, width: int, layer: str = "model.layers.{}.mixer.weight"
) -> Tensors:
    """A table of embeddings and one small tensor for each layer."""
    found: Tensors = {table: ("BF16", (vocabulary, width))}
    return found | {layer.format(index): ("BF16", (8,)) for index in range(layers)}


TINY_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "vocab_size": 40,
}


def tiny_tensors() -> Tensors:
    return llama_tensors(layers=2, width=16, kv_width=8, feed_forward=32, vocabulary=40)


def folder(config: Mapping[str, Any] | None = None, tensors: Tensors | None = None) -> MemoryFolder:
    """A whole folder with one weight file; a tiny llama unless told otherwise."""
    made = MemoryFolder().put("config.json", TINY_CONFIG if config is None else config)
    made.put("tokenizer.json", "{}").put_tensors("model.safetensors", tiny_tensors() if tensors is None else tensors)
    return made.put("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>"})


def sharded() -> MemoryFolder:
    """The tiny llama in two shards with an index."""
    made = folder().drop("model.safetensors")
    tensors = list(tiny_tensors().items())
    names: dict[str, str] = {}
    for number, part in enumerate((tensors[:9], tensors[9:]), start=1):
        name = f"model-{number:05}-of-00002.safetensors"
        made.put_tensors(name, dict(part))
        names |= dict.fromkeys(dict(part), name)
    return made.put("model.safetensors.index.json", {"metadata": {}, "weight_map": names})
