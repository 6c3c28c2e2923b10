"""Read the metadata pairs of a GGUF file: scalars and texts as values, arrays as places in the file.

A vocabulary's texts are stepped over, not made: the loop in `_skip_texts` reads one length and jumps, for each token.
"""

import struct
from collections.abc import Callable, Mapping
from functools import cache

from llmrun.models.gguf.types import (
    MAX_ARRAY_ENTRIES,
    MAX_STRING_BYTES,
    GgufArray,
    GgufValue,
    ValueType,
)
from llmrun.models.gguf.window import HeaderWindow, damaged

__all__ = ["CHECKPOINT_ENTRIES", "read_metadata", "read_number", "read_text_bytes"]

CHECKPOINT_ENTRIES = 256
_MAX_KEY_BYTES = 65_535  # Source: the GGUF specification
_MAX_VALUES_KEPT = 4_096

_FORMATS: Mapping[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
_unpack_u64: Callable[[bytes, int], tuple[int]] = struct.Struct("<Q").unpack_from
_TYPES: Mapping[int, ValueType] = {int(value): value for value in ValueType}


@cache
def _struct_for(letter: str) -> struct.Struct:
    return struct.Struct("<" + letter)


def read_number(window: HeaderWindow, position: int, letter: str) -> tuple[int | float | bool, int]:
    """Read one number by its `struct` letter; return it and the position after it."""
    layout = _struct_for(letter)
    data = window.need(position + layout.size)
    value: int | float | bool = layout.unpack_from(data, position)[0]
    return value, position + layout.size


def read_text_bytes(window: HeaderWindow, position: int, limit: int, what: str) -> tuple[bytes, int]:
    """Read one text with its length before it, without decoding it.

    Raises:
        ModelFileError: It is longer than `limit` bytes, or the file ends inside it.
    """
    length = _unpack_u64(window.need(position + 8), position)[0]
    if length > limit:
        raise damaged(window.path, f"{what} would be {length:,} bytes long, and {limit:,} is the limit")
    end = position + 8 + length
    return window.need(end)[position + 8 : end], end


def read_metadata(
    window: HeaderWindow, position: int, count: int
) -> tuple[dict[str, GgufValue], dict[str, ValueType], tuple[str, ...], int]:
    """Read `count` pairs from `position` on.

    Returns:
        The values, their stored types, the warnings, and the position after the last pair.

    Raises:
        ModelFileError: A pair is damaged, comes twice, or the file ends before the last one.
    """
    window.section = "metadata"
    values: dict[str, GgufValue] = {}
    types: dict[str, ValueType] = {}
    warnings: list[str] = []
    for index in range(count):
        raw_key, position = read_text_bytes(window, position, _MAX_KEY_BYTES, f"the name of metadata pair {index}")
        key = raw_key.decode("utf-8", "replace")
        if not key:
            raise damaged(window.path, f"metadata pair {index} has an empty name")
        if key in values:
            raise damaged(window.path, f"the metadata key {key!r} comes twice")
        kind, position = _read_type(window, position, key)
        types[key] = kind
        if kind is ValueType.STRING:
            raw, position = read_text_bytes(window, position, MAX_STRING_BYTES, f"the metadata value {key!r}")
            values[key] = _decode(raw, key, warnings)
        elif kind is ValueType.ARRAY:
            array = _read_array(window, position, key)
            values[key] = array
            position = array.offset + array.size_bytes
        else:
            values[key], position = read_number(window, position, _FORMATS[kind])
    return values, types, tuple(warnings), position


def _decode(raw: bytes, key: str, warnings: list[str]) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        warnings.append(f"{key} is not valid UTF-8: what could not be read is replaced")
        return raw.decode("utf-8", "replace")


def _read_type(window: HeaderWindow, position: int, key: str) -> tuple[ValueType, int]:
    number, position = read_number(window, position, "I")
    kind = _TYPES.get(int(number))
    if kind is None:
        raise damaged(window.path, f"the metadata key {key!r} has the unknown value type {number}")
    return kind, position


def _read_array(window: HeaderWindow, position: int, key: str) -> GgufArray:
    kind, position = _read_type(window, position, key)
    number, position = read_number(window, position, "Q")
    count = int(number)
    if kind is ValueType.ARRAY:
        raise damaged(window.path, f"the metadata key {key!r} holds arrays inside an array, which no engine reads")
    if count > MAX_ARRAY_ENTRIES:
        raise damaged(
            window.path, f"the array {key!r} would have {count:,} entries, and {MAX_ARRAY_ENTRIES:,} is the limit"
        )
    if kind is ValueType.STRING:
        end, checkpoints = _skip_texts(window, position, count, key)
        return GgufArray(
            element_type=kind, count=count, offset=position, size_bytes=end - position, checkpoints=checkpoints
        )
    size_bytes = count * _struct_for(_FORMATS[kind]).size
    data = window.need(position + size_bytes)
    values = struct.unpack_from(f"<{count}{_FORMATS[kind]}", data, position) if count <= _MAX_VALUES_KEPT else None
    return GgufArray(element_type=kind, count=count, offset=position, size_bytes=size_bytes, values=values)


def _skip_texts(window: HeaderWindow, position: int, count: int, key: str) -> tuple[int, tuple[int, ...]]:
    """Step over `count` texts; return where they end, and the offset of every 256th."""
    data = window.need(position)
    if count * 8 > window.size_bytes - position:  # refused before a loop of 8 million steps finds out
        window.need(position + count * 8)
    checkpoints: list[int] = []
    unpack = _unpack_u64
    done = 0
    while done < count:
        block_start = position
        try:
            for _ in range(min(CHECKPOINT_ENTRIES, count - done)):
                length = unpack(data, position)[0]
                if length > MAX_STRING_BYTES:
                    raise damaged(
                        window.path,
                        f"a text in {key!r} would be {length:,} bytes long, and {MAX_STRING_BYTES:,} is the limit",
                    )
                position += 8 + length
        except struct.error:  # the window ends here: read more of the file, and take the block again
            data = window.need(position + 8)
            position = block_start
            continue
        checkpoints.append(block_start)
        done += CHECKPOINT_ENTRIES
    window.need(position)
    return position, tuple(checkpoints)
