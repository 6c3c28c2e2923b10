"""The values that a GGUF header holds, and the numbers of the format: what the reader of `gguf.py` fills.

Nothing here reads a file. Arrays are not lists: a vocabulary of 262,144 strings is kept as a place in the file
(`GgufArray`), because almost nothing needs its texts, and making them costs more than reading the rest of the header.

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and the block layouts of
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "FILE_TYPE_NAMES",
    "MAX_ARRAY_ENTRIES",
    "MAX_METADATA_PAIRS",
    "MAX_STRING_BYTES",
    "MAX_TENSORS",
    "TENSOR_TYPES",
    "GgufArray",
    "GgufHeader",
    "GgufTensor",
    "GgufValue",
    "TensorType",
    "ValueType",
]

# No published model comes near these: they keep a damaged or hostile file from costing time or memory.
MAX_METADATA_PAIRS = 4_096
MAX_TENSORS = 65_535
MAX_STRING_BYTES = 16 * 1024 * 1024
MAX_ARRAY_ENTRIES = 8 * 1024 * 1024


class ValueType(IntEnum):
    """The type of a metadata value, as the file numbers it."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArray:
    """A metadata array, left where it is in the file.

    Attributes:
        element_type: What it holds; never ARRAY.
        count: Number of entries.
        offset: Where its first entry begins in the file.
        size_bytes: Bytes of all entries, with the length prefixes of strings.
        values: The entries themselves, for numeric arrays of at most 4,096; None otherwise.
        checkpoints: Only for strings: offsets of entries 0, 256, 512, …, so that one entry is found without a walk
            over all that come before it.
    """

    element_type: ValueType
    count: int
    offset: int
    size_bytes: int
    values: tuple[int | float | bool, ...] | None = None
    checkpoints: tuple[int, ...] = ()


GgufValue = int | float | bool | str | GgufArray


class GgufTensor(NamedTuple):
    """One row of the tensor table. A named tuple, because there may be 65,535 of them.

    `offset` counts from the start of the file; `dimensions` are as stored: the fastest varying one first.
    """

    name: str
    dimensions: tuple[int, ...]
    type_name: str
    elements: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What stands in a GGUF file before its weights; of a split model, the first part's, with all parts' tensors.

    Attributes:
        path: The file; the first part of a split model.
        version: 2 or 3.
        alignment: Tensor data begins at multiples of it, in bytes.
        metadata: Every pair, in file order; strings decoded, with U+FFFD for what is not UTF-8.
        value_types: The stored type of each pair: native readers accept one exact type for each key.
        tensors: In file order.
        data_offset: Where tensor data begins.
        file_size_bytes: Of this file.
        parts: Every file of the model with its size; one unless it is split.
        warnings: What was odd but not fatal.
        beginning: The bytes of the header, kept when the file is not on this disk; arrays are taken out of them.
    """

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, GgufValue]
    value_types: Mapping[str, ValueType]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_size_bytes: int
    parts: tuple[tuple[Path, int], ...]
    warnings: tuple[str, ...] = ()
    beginning: bytes | None = field(default=None, repr=False, compare=False)


class TensorType(NamedTuple):
    """How one ggml type stores weights: `block_size` elements in `block_bytes` bytes."""

    name: str
    block_size: int
    block_bytes: int


# The removed numbers (4, 5, 31 to 33, 36 to 38) are left out on purpose: no reader accepts them any more.
TENSOR_TYPES: Mapping[int, TensorType] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 36),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}

# general.file_type: the recipe of the whole file. Source: enum llama_ftype of llama.cpp's include/llama.h.
FILE_TYPE_NAMES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
