"""Make GGUF files for tests: broken ones byte by byte, and a tiny model that llama.cpp really loads.

`build_gguf` writes whatever it is told, also nonsense. `write_tiny_llama_gguf` writes a two-block llama with a
byte-level vocabulary and ChatML tokens, 0.4 MB; with `answer="Paris"` its weights are made so that greedy decoding
after a newline says just that and stops.
"""

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_1, Q8_0, Q4_K = 0, 1, 3, 8, 12
LETTERS = {
    UINT8: "B",
    INT8: "b",
    UINT16: "H",
    INT16: "h",
    UINT32: "I",
    INT32: "i",
    FLOAT32: "f",
    BOOL: "?",
    UINT64: "Q",
    INT64: "q",
    FLOAT64: "d",
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "e r", "a n", "Ġ a", "o n", "r e", "Ġ is", "i s", "Ġa n")
EMBEDDING, HEADS, KV_HEADS, FEED_FORWARD, BLOCKS = 64, 4, 2, 128, 2


@dataclass(frozen=True)
class Raw:
    """A metadata value: its type number and its bytes."""

    kind: int
    data: bytes


@dataclass(frozen=True)
class Tensor:
    """One row of the tensor table; without an offset it is put after the one before it."""

    name: str | bytes
    dimensions: tuple[int, ...] = (64,)
    kind: int = F32
    offset: int | None = None
    size_bytes: int | None = None


def text(value: str | bytes) -> Raw:
    return Raw(STRING, lengthy(value))


def lengthy(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def number(kind: int, value: float) -> Raw:
    return Raw(kind, struct.pack("<" + LETTERS[kind], value))


def u32(value: int) -> Raw:
    return number(UINT32, value)


def f32(value: float) -> Raw:
    return number(FLOAT32, value)


def array(kind: int, values: Sequence[Any], *, count: int | None = None) -> Raw:
    if kind == STRING:
        body = b"".join(lengthy(value) for value in values)
    else:
        body = struct.pack(f"<{len(values)}{LETTERS[kind]}", *values)
    return Raw(ARRAY, struct.pack("<IQ", kind, len(values) if count is None else count) + body)


def llama_pairs(**changes: Raw | None) -> dict[str, Raw]:
    """The metadata of a sound two-block llama with six tokens; a value of None takes a key away."""
    pairs: dict[str, Raw | None] = {
        "general.architecture": text("llama"),
        "general.name": text("tiny"),
        "general.file_type": u32(0),
        "llama.block_count": u32(2),
        "llama.context_length": u32(256),
        "llama.embedding_length": u32(64),
        "llama.feed_forward_length": u32(128),
        "llama.attention.head_count": u32(4),
        "llama.attention.head_count_kv": u32(2),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("gpt-2"),
        "tokenizer.ggml.tokens": array(STRING, ["a", "b", "ab", "<|end|>", "  ", "<|a longer one|>"]),
        "tokenizer.ggml.token_type": array(INT32, [1, 1, 1, 3, 4, 3]),
        "tokenizer.ggml.merges": array(STRING, ["a b"]),
        "tokenizer.ggml.bos_token_id": u32(3),
        "tokenizer.ggml.eos_token_id": u32(3),
        "tokenizer.chat_template": text(CHATML),
    }
    pairs.update(changes)
    return {key: value for key, value in pairs.items() if value is not None}


LLAMA_TENSORS = (Tensor("token_embd.weight", (64, 6)), Tensor("output_norm.weight", (64,)))


def build_gguf(
    pairs: Mapping[str, Raw] | Sequence[tuple[str | bytes, Raw]] | None = None,
    tensors: Sequence[Tensor] = LLAMA_TENSORS,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    pair_count: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
    with_data: bool = True,
) -> bytes:
    """Write a file; the counts may lie, and the pairs may come twice when they are given as a list."""
    pairs = llama_pairs() if pairs is None else pairs
    rows = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    out = [magic, struct.pack("<I", version)]
    out.append(struct.pack("<Q", len(tensors) if tensor_count is None else tensor_count))
    out.append(struct.pack("<Q", len(rows) if pair_count is None else pair_count))
    out += [lengthy(key) + struct.pack("<I", value.kind) + value.data for key, value in rows]
    end = 0
    for tensor in tensors:
        out.append(lengthy(tensor.name) + struct.pack("<I", len(tensor.dimensions)))
        out.append(struct.pack(f"<{len(tensor.dimensions)}Q", *tensor.dimensions))
        out.append(struct.pack("<IQ", tensor.kind, end if tensor.offset is None else tensor.offset))
        end += -(-_size(tensor) // alignment) * alignment
    header = b"".join(out)
    padding = bytes(-len(header) % alignment)
    return header + padding + (bytes(end) if with_data else b"")


def _size(tensor: Tensor) -> int:
    if tensor.size_bytes is not None:
        return tensor.size_bytes
    elements = 1
    for dimension in tensor.dimensions:
        elements *= dimension
    block, size = {F32: (1, 4), F16: (1, 2), Q4_1: (32, 20), Q8_0: (32, 34), Q4_K: (256, 144)}.get(tensor.kind, (1, 4))
    size_bytes = elements // block * size
    return size_bytes if size_bytes < 2**24 else 0


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tiny_vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, token types and merges of the tiny model."""
    tokens = [*SPECIALS, *byte_characters()]
    merges = []
    for merge in MERGES:
        left, right = merge.split(" ")
        if left in tokens and right in tokens:
            merges.append(merge)
            tokens.append(left + right)
    return tokens, [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)), merges


def tiny_metadata() -> dict[str, Any]:
    tokens, types, merges = tiny_vocabulary()
    return {
        "general.name": "Tiny",
        "general.file_type": 0,
        "llama.block_count": BLOCKS,
        "llama.context_length": 2048,
        "llama.embedding_length": EMBEDDING,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": EMBEDDING // HEADS,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def write_tiny_llama_gguf(
    path: Path, *, answer: str | None = None, split_max_tensors: int = 0, seed: int = 0, **metadata_overrides: Any
) -> Path:
    """Write a loadable model; `**{"llama.block_count": 0}` changes a key, None takes it away.

    Args:
        path: Where to write; with `split_max_tensors`, the name that the parts' names are made from.
        answer: What greedy decoding says after a newline; its characters must differ from one another.
        split_max_tensors: Write parts with so many tensors each.
        seed: Of the random weights.
        **metadata_overrides: Values as Python's own (int is written as u32), or `(value, type number)`.

    Returns:
        The file to load: the first part of a split one.
    """
    import gguf

    metadata = tiny_metadata() | metadata_overrides
    architecture = metadata.pop("general.architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split_max_tensors)
    for key, value in metadata.items():
        if value is not None:
            plain, kind = value if isinstance(value, tuple) else (value, _kind_of(value))
            element = _kind_of(plain[0]) if kind == ARRAY and plain else None
            if element == UINT32:
                element = INT32
            writer.add_key_value(
                key, plain, gguf.GGUFValueType(kind), None if element is None else gguf.GGUFValueType(element)
            )
    for name, data in tiny_weights(answer, seed).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))
    return first[0] if split_max_tensors and first else path


def _kind_of(value: Any) -> int:
    for kind, number_type in ((BOOL, bool), (STRING, str), (UINT32, int), (FLOAT32, float), (ARRAY, list)):
        if isinstance(value, number_type):
            return kind
    raise TypeError(f"no GGUF type for {value!r}")


def tiny_weights(answer: str | None, seed: int) -> dict[str, Any]:
    """Weights by name, as numpy arrays with the slowest dimension first."""
    import numpy as np

    random = np.random.default_rng(seed)
    count = len(tiny_vocabulary()[0])

    def matrix(rows: int, columns: int, scale: float = 0.02) -> Any:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    kv_width = EMBEDDING // HEADS * KV_HEADS
    embedding = matrix(count, EMBEDDING, 1.0)
    weights = {"token_embd.weight": embedding}
    for block in range(BLOCKS):
        prefix = f"blk.{block}."
        weights |= {
            prefix + "attn_norm.weight": np.ones(EMBEDDING, np.float32),
            prefix + "attn_q.weight": matrix(EMBEDDING, EMBEDDING),
            prefix + "attn_k.weight": matrix(kv_width, EMBEDDING),
            prefix + "attn_v.weight": matrix(kv_width, EMBEDDING),
            prefix + "attn_output.weight": matrix(EMBEDDING, EMBEDDING),
            prefix + "ffn_norm.weight": np.ones(EMBEDDING, np.float32),
            prefix + "ffn_gate.weight": matrix(FEED_FORWARD, EMBEDDING),
            prefix + "ffn_up.weight": matrix(FEED_FORWARD, EMBEDDING),
            prefix + "ffn_down.weight": matrix(EMBEDDING, FEED_FORWARD),
        }
    weights["output_norm.weight"] = np.ones(EMBEDDING, np.float32)
    output = matrix(count, EMBEDDING)
    if answer is not None:
        tokens = tiny_vocabulary()[0]
        chain = ["\n", *answer]
        characters = byte_characters()
        ids = [tokens.index(characters[ord(character)]) for character in chain] + [tokens.index("<|im_end|>")]
        for here, after in itertools.pairwise(ids):
            output[after] = embedding[here]
    weights["output.weight"] = output
    return weights
