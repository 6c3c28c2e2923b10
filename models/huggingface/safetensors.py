"""Read the header of a safetensors file: which tensors it holds, checked against the file's size.

The format is 8 bytes with the header's length (little-endian), that many bytes of JSON, and the data of all tensors
without a gap. The weights are never touched. One read of the first 256 KiB has the whole header of most files; a
longer one costs a second read, and never a third, because each is a round trip when the file is on a server.

Refused: a header above 32 MiB or 262,140 tensors, data that overlaps or has gaps, data past the file's end, and a file
of another kind under this name, which is named. Source: the format's description at huggingface/safetensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from llmrun.errors import ModelFileError
from llmrun.models.file_source import FileSource
from llmrun.models.sniff import FileKind, identify

__all__ = ["MAX_HEADER_BYTES", "MAX_TENSORS", "SafetensorsHeader", "SafetensorsTensor", "read_safetensors_header"]

MAX_TENSORS = 4 * 65_535  # a mixture of experts has a tensor for each projection of each expert
MAX_HEADER_BYTES = 32 * 1024**2  # the format itself allows 100 MB: MAX_TENSORS rows need about a third of it
_FIRST_READ_BYTES = 256 * 1024
_LENGTH_BYTES = 8
_MAX_DIMENSIONS = 8
# Each tensor opens one object and two lists; the rest is for texts of the metadata that contain brackets.
_MAX_BRACKETS = 4 * MAX_TENSORS
_AGAIN = "download the file again"

# Source: enum Dtype of safetensors 0.6, in bits
_DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsTensor:
    """One tensor: `shape` in elements, outermost first; `start_bytes` counts from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start_bytes: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of stored elements; a packed one holds several weights."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsHeader:
    """What one file says of itself.

    Attributes:
        name: File name.
        tensors: In the order of their data.
        metadata: Free texts (`{"format": "pt"}`).
    """

    name: str
    tensors: tuple[SafetensorsTensor, ...]
    metadata: Mapping[str, str]


def read_safetensors_header(source: FileSource, name: str) -> SafetensorsHeader:
    """Read and check the header of one file, with one or two reads.

    Raises:
        ModelFileError: The file is of another kind, damaged, or incomplete.
        NetworkError: The server failed.
    """
    path, size_bytes = source.path / name, source.sizes[name]
    head = _read(source, name, 0, min(_FIRST_READ_BYTES, size_bytes))
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{" or length < 2:
        raise _other_kind(path, head, size_bytes)
    if length > MAX_HEADER_BYTES:
        raise _damaged(path, f"its header would have {length:,} bytes")
    data_start = _LENGTH_BYTES + length
    if data_start > size_bytes:
        raise _incomplete(path, size_bytes, "end inside the header")
    if data_start > len(head):
        head += _read(source, name, len(head), data_start - len(head))
    rows, metadata = _parse(path, head[_LENGTH_BYTES:data_start])
    tensors = sorted(
        (_read_row(path, key, row) for key, row in rows.items()), key=lambda one: (one.start_bytes, one.size_bytes)
    )
    _check_layout(path, tensors, size_bytes - data_start, size_bytes)
    return SafetensorsHeader(name=name, tensors=tuple(tensors), metadata=metadata)


def _read(source: FileSource, name: str, start: int, length: int) -> bytes:
    data = source.read(name, start, length)
    if len(data) != length:
        raise ModelFileError(f"{source.path / name} became shorter while it was read", fix=_AGAIN)
    return data


def _parse(path: Path, text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the rows of the tensors and the metadata."""
    if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
        raise _damaged(path, f"it names more than {MAX_TENSORS:,} tensors")
    try:
        rows = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not what the format wants: {_reason(error)}") from error
    if not isinstance(rows, dict):
        raise _damaged(path, "its header is not an object")
    metadata = rows.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata is not made of texts")
    if len(rows) > MAX_TENSORS:
        raise _damaged(path, f"it names more than {MAX_TENSORS:,} tensors")
    return rows, metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]


def _read_row(path: Path, name: str, row: object) -> SafetensorsTensor:
    shown = f"tensor {name[:100]!r}"
    if not isinstance(row, dict):
        raise _damaged(path, f"{shown} is not described by an object")
    dtype, shape, offsets = row.get("dtype"), row.get("shape"), row.get("data_offsets")
    bits = _DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None or not isinstance(dtype, str):
        raise ModelFileError(f"{path}: {shown} has the type {str(dtype)[:40]!r}, which is not known")
    if not _are_whole(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(path, f"{shown} has the shape {str(shape)[:80]}")
    if not _are_whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(path, f"{shown} has the data offsets {str(offsets)[:80]}")
    size_bits = prod(shape) * bits
    if size_bits != 8 * (offsets[1] - offsets[0]):
        wanted = f"{size_bits // 8:,} bytes" if size_bits < 2**66 else "more bytes than any disk has"
        raise _damaged(path, f"{shown} needs {wanted} and has {offsets[1] - offsets[0]:,}")
    return SafetensorsTensor(
        name=name, dtype=dtype, shape=tuple(shape), start_bytes=offsets[0], size_bytes=offsets[1] - offsets[0]
    )


def _are_whole(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_layout(path: Path, tensors: list[SafetensorsTensor], data_bytes: int, size_bytes: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    position = 0
    for tensor in tensors:
        if tensor.start_bytes != position:
            what = "overlaps the one before it" if tensor.start_bytes < position else "comes after a gap"
            raise _damaged(path, f"the data of tensor {tensor.name[:100]!r} {what}")
        position += tensor.size_bytes
    if position > data_bytes:
        raise _incomplete(path, size_bytes, f"are {position - data_bytes:,} too few for its {len(tensors):,} tensors")
    if position < data_bytes:
        raise _damaged(path, f"{data_bytes - position:,} bytes follow its last tensor")


def _other_kind(path: Path, head: bytes, size_bytes: int) -> ModelFileError:
    found = identify(head[:512], size_bytes)
    fixes = {
        FileKind.EMPTY: _AGAIN,
        FileKind.LFS_POINTER: found.fix,
        FileKind.HTML: found.fix,
        FileKind.GGUF: "give it a name that ends in .gguf, and name that file",
        FileKind.GGML: found.fix,
        FileKind.PICKLE: found.fix,
    }
    return ModelFileError(
        f"{path} is not a safetensors file but {found.description}",
        fix=fixes.get(found.kind, "download the file again, and check its name"),
    )


def _incomplete(path: Path, size_bytes: int, what: str) -> ModelFileError:
    return ModelFileError(f"{path} is incomplete: its {size_bytes:,} bytes {what}", fix=_AGAIN)


def _damaged(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path} is damaged: {what}", fix=_AGAIN)
