"""Read the tensor table of a GGUF file and check that the tensors lie in the file as native code expects them.

The writer of every GGUF puts the tensors one after another in table order, each padded to the alignment, and the
native reader insists on it. So one running sum finds overlaps, gaps, misalignment and missing bytes alike.
"""

import math
import struct
from collections.abc import Callable

from llmrun.errors import ModelFileError
from llmrun.models.gguf.types import TENSOR_TYPES, GgufTensor
from llmrun.models.gguf.window import HeaderWindow, damaged

__all__ = ["read_tensors"]

_MAX_NAME_BYTES = 63  # Source: GGML_MAX_NAME is 64 with the closing zero (ggml.h)
_MAX_DIMENSIONS = 4  # Source: GGML_MAX_DIMS (ggml.h)
_MAX_BYTES = 2**63 - 1
_DATA_ALIGNMENT = 32  # Source: TENSOR_ALIGNMENT (ggml-impl.h): a mapped file's data must begin at a multiple of it
_unpack_u64: Callable[[bytes, int], tuple[int]] = struct.Struct("<Q").unpack_from
_unpack_u32: Callable[[bytes, int], tuple[int]] = struct.Struct("<I").unpack_from
# What follows the number of dimensions: the dimensions, the type, the offset.
_REST = tuple(struct.Struct(f"<{dimensions}QIQ") for dimensions in range(_MAX_DIMENSIONS + 1))

_Row = tuple[bytes, tuple[int, ...], int, int]


def read_tensors(window: HeaderWindow, position: int, count: int, alignment: int) -> tuple[tuple[GgufTensor, ...], int]:
    """Read `count` rows from `position` on.

    Returns:
        The tensors, and where tensor data begins in the file.

    Raises:
        ModelFileError: A row is damaged, a tensor overlaps another or lies outside the file.
    """
    window.section = "tensor table"
    rows: list[_Row] = []
    data = window.data
    for _ in range(count):
        while True:
            try:
                row, position = _read_row(window, data, position)
                break
            except struct.error:  # the window ends here
                data = window.need(len(data) + 1)
        rows.append(row)
    data_offset = -(-position // alignment) * alignment
    tensors = []
    expected = 0
    for row in rows:
        tensor, expected = _place(window, row, expected, alignment, data_offset)
        tensors.append(tensor)
    _check_names(window, tensors)
    _check_complete(window, tensors)
    if tensors and data_offset % _DATA_ALIGNMENT:
        raise damaged(
            window.path, f"its weights begin at byte {data_offset:,}, which is not a multiple of {_DATA_ALIGNMENT}"
        )
    return tuple(tensors), data_offset


def _read_row(window: HeaderWindow, data: bytes, position: int) -> tuple[_Row, int]:
    length = _unpack_u64(data, position)[0]
    if length > _MAX_NAME_BYTES:
        raise damaged(
            window.path, f"the name of a tensor would be {length:,} bytes long, and {_MAX_NAME_BYTES} is the limit"
        )
    position += 8 + length
    name = data[position - length : position]
    dimensions = _unpack_u32(data, position)[0]
    if dimensions > _MAX_DIMENSIONS:
        raise damaged(window.path, f"tensor {_show(name)} would have {dimensions:,} dimensions, and 4 is the limit")
    layout = _REST[dimensions]
    values = layout.unpack_from(data, position + 4)
    return (name, values[:-2], values[-2], values[-1]), position + 4 + layout.size


def _place(window: HeaderWindow, row: _Row, expected: int, alignment: int, data_offset: int) -> tuple[GgufTensor, int]:
    """Check one row against the running sum; return its tensor, and where the next one must begin."""
    name, dimensions, type_number, offset = row
    kind = TENSOR_TYPES.get(type_number)
    if kind is None:
        raise ModelFileError(
            f"{window.path}: tensor {_show(name)} has the unknown type number {type_number}",
            fix="update llmrun, or take another quantization of the model",
        )
    elements = math.prod(dimensions)
    row_length = dimensions[0] if dimensions else 1
    if row_length % kind.block_size:
        raise damaged(
            window.path,
            f"tensor {_show(name)} has rows of {row_length:,} weights, and {kind.name} packs {kind.block_size} at once",
        )
    size_bytes = elements // kind.block_size * kind.block_bytes
    if elements > _MAX_BYTES or size_bytes > _MAX_BYTES - alignment:
        raise damaged(window.path, f"tensor {_show(name)} would have the impossible shape {dimensions}")
    if offset != expected:
        raise damaged(window.path, f"tensor {_show(name)} {_misplaced(offset, expected, alignment)}")
    tensor = GgufTensor(
        name.decode("utf-8", "replace"), dimensions, kind.name, elements, data_offset + offset, size_bytes
    )
    return tensor, expected + -(-size_bytes // alignment) * alignment


def _misplaced(offset: int, expected: int, alignment: int) -> str:
    if offset % alignment:
        return f"begins at {offset:,}, which is not a multiple of the alignment {alignment}"
    if offset < expected:
        return f"begins at {offset:,} and overlaps the one before it, which ends at {expected:,}"
    return f"begins at {offset:,}, and the one before it ends at {expected:,}"


def _check_names(window: HeaderWindow, tensors: list[GgufTensor]) -> None:
    seen = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise damaged(window.path, f"the tensor {tensor.name!r} comes twice")
        seen.add(tensor.name)


def _check_complete(window: HeaderWindow, tensors: list[GgufTensor]) -> None:
    if not tensors:
        return
    end = tensors[-1].offset + tensors[-1].size_bytes
    missing = end - window.size_bytes
    if missing > 0:
        raise ModelFileError(
            f"{window.path} is incomplete: {missing:,} bytes are missing of {end:,}", fix="download the file again"
        )


def _show(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace"))
