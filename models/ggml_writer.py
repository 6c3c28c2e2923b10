"""Write model files in the formats that came before GGUF: for trials of an engine that reads them, and for tests.

It writes what it is given: names, shapes and blocks of tensors that are quantized already. Nothing is checked but what
the format itself cannot hold, so a test can write a file that is wrong.

Source of the layouts: llama.cpp of July 2023 (`llama_file_loader` in llama.cpp) for `ggjt` version 3, and
examples/gpt-2/main.cpp of ggml in 2023 for the unversioned `ggml`.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["GGJT_VERSION", "GgmlTensor", "LlamaShape", "write_ggjt_llama", "write_ggml"]

GGJT_VERSION = 3
_GGML_MAGIC, _GGJT_MAGIC = 0x67676D6C, 0x67676A74
_ALIGNMENT = 32


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
    document = bytearray(struct.pack("<9I", _GGJT_MAGIC, GGJT_VERSION, *numbers))
    for token, score in vocabulary:
        document += struct.pack("<I", len(token)) + token + struct.pack("<f", score)
    for tensor in tensors:
        document += _header(tensor)
        document += bytes(-len(document) % _ALIGNMENT) + tensor.data
    return bytes(document)


def write_ggml(hyper_parameters: Sequence[int], vocabulary: Sequence[bytes], tensors: Iterable[GgmlTensor]) -> bytes:
    """Return an unversioned `ggml` file, as gpt2, gptj and starcoder have them.

    Args:
        hyper_parameters: In the order of the model type; for gpt2: vocabulary, context length, embedding length,
            heads, layers, file type.
        vocabulary: The tokens; their count is written before them.
        tensors: In any order.
    """
    document = bytearray(struct.pack("<I", _GGML_MAGIC))
    document += struct.pack(f"<{len(hyper_parameters)}i", *hyper_parameters)
    document += struct.pack("<i", len(vocabulary))
    for token in vocabulary:
        document += struct.pack("<I", len(token)) + token
    for tensor in tensors:
        document += _header(tensor) + tensor.data
    return bytes(document)


def _header(tensor: GgmlTensor) -> bytes:
    name = tensor.name.encode()
    dimensions = len(tensor.shape)
    return struct.pack(f"<3I{dimensions}I", dimensions, len(name), tensor.type_number, *tensor.shape) + name
