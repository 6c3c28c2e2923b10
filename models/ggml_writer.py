"""Write model files in the formats that came before GGUF: for trials of an engine that reads them, and for tests.

It writes what it is given: names, shapes and blocks of tensors that are quantized already. Nothing is checked but what
the format itself cannot hold, so a test can write a file that is wrong.

Source of the layouts: llama.cpp of July 2023 (`llama_file_loader` in llama.cpp) for `ggjt` version 3, and
examples/gpt-2/main.cpp of ggml in 2023 for the unversioned `ggml`; the loaders of ctransformers 0.2.27 for the others.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["GGJT_VERSION", "GgmlTensor", "LlamaShape", "write_ggjt_llama", "write_ggml", "write_legacy"]

GGJT_VERSION = 3
_ALIGNMENT = 32
_ALIGNED = frozenset({"ggjt", "ggcc"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GgmlTensor:
    """A tensor as it stands in the file.

    Attributes:
        name: As the loader of the model type expects it.
        type_number: Of the GGML type: 0 is float32, 1 float16, 2 Q4_0, … (the same as in GGUF).
        shape: The length of a row first; at most two dimensions.
        data: Its blocks.
    """

    name: str
    type_number: int
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """The hyper-parameters of a `ggjt` file of a Llama; `multiple` is what the feed-forward length is rounded up to."""

    embedding_length: int
    multiple: int
    heads: int
    layers: int
    rope_dimensions: int
    file_type: int

    @property
    def feed_forward_length(self) -> int:
        """Return the length that the loader computes: two thirds of four widths, rounded up."""
        raw = 2 * (4 * self.embedding_length) // 3
        return -(-raw // self.multiple) * self.multiple


def write_ggjt_llama(
    shape: LlamaShape, vocabulary: Sequence[tuple[bytes, float]], tensors: Iterable[GgmlTensor]
) -> bytes:
    """Return a `ggjt` version 3 file of a Llama; the vocabulary has a score beside each token."""
    numbers = (
        *(len(vocabulary), shape.embedding_length, shape.multiple, shape.heads),
        *(shape.layers, shape.rope_dimensions, shape.file_type),
    )
    return write_legacy("ggjt", GGJT_VERSION, numbers, vocabulary, tensors)


def write_ggml(hyper_parameters: Sequence[int], vocabulary: Sequence[bytes], tensors: Iterable[GgmlTensor]) -> bytes:
    """Return an unversioned `ggml` file, as gpt2, gptj and starcoder have them.

    Args:
        hyper_parameters: In the order of the model type; for gpt2: vocabulary, context length, embedding length,
            heads, layers, file type.
        vocabulary: The tokens; their count is written before them.
        tensors: In any order.
    """
    numbers = (*hyper_parameters, len(vocabulary))
    return write_legacy("ggml", 0, numbers, [(token, None) for token in vocabulary], tensors)


def write_legacy(
    magic: str,
    version: int,
    numbers: Sequence[int | float],
    vocabulary: Iterable[tuple[bytes, float | None]],
    tensors: Iterable[GgmlTensor],
    *,
    merges: Sequence[tuple[bytes, bytes]] | None = None,
) -> bytes:
    """Return a file of any of the formats.

    Args:
        magic: `ggml`, `ggmf`, `ggjt` or `ggcc`.
        version: Of the container; `ggml` has none.
        numbers: Everything between the version and the vocabulary, in the order of the model type; a float is written
            as one of 32 bits.
        vocabulary: Each token with its score; None where the format has no scores.
        tensors: In any order.
        merges: Pairs behind the vocabulary, as falcon files of `ggcc` have them.
    """
    document = bytearray(magic.encode()[::-1])
    if magic != "ggml":
        document += struct.pack("<I", version)
    for number in numbers:
        document += struct.pack("<f" if isinstance(number, float) else "<i", number)
    for token, score in vocabulary:
        document += _counted(token) + (b"" if score is None else struct.pack("<f", score))
    if merges is not None:
        document += struct.pack("<I", len(merges))
        document += b"".join(_counted(text) for pair in merges for text in pair)
    for tensor in tensors:
        document += _header(tensor)
        document += bytes(-len(document) % _ALIGNMENT if magic in _ALIGNED else 0) + tensor.data
    return bytes(document)


def _counted(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _header(tensor: GgmlTensor) -> bytes:
    name = tensor.name.encode()
    dimensions = len(tensor.shape)
    return struct.pack(f"<3I{dimensions}I", dimensions, len(name), tensor.type_number, *tensor.shape) + name
