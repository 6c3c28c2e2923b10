"""Step from tensor to tensor of a legacy file, and check that they are those of the layout and lie within the file.

There is no table: each tensor is a few numbers, its name and its data, and the next one follows. The data are never
read, only stepped over. Loaders notice neither a tensor that is missing, whose memory then stays as it was, nor data
that end early; both are refused here.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from llmrun.errors import ModelFileError
from llmrun.models.ggml.layouts import Wanted
from llmrun.models.ggml.types import LEGACY_TENSOR_TYPES, GgmlTensorPlace
from llmrun.models.gguf.window import HeaderWindow, RangeReader, damaged

__all__ = ["FIRST_TENSOR", "TENSORS", "TensorRules", "read_tensors"]

FIRST_TENSOR, TENSORS = "first tensor", "tensors"  # sections, for messages
_NUMBERS = struct.Struct("<3I")
_MAX_NAME_BYTES = 255
_READ_BYTES = _NUMBERS.size + 2 * 4 + _MAX_NAME_BYTES
_ALIGNMENT = 32
_Length = TypeVar("_Length")


class TensorRules(NamedTuple):
    """What the tensors of a file must be like.

    Attributes:
        wanted: Every tensor by its name.
        model_types: For messages.
        types: Numbers of the types that matrices may have.
        aligned: Whether data begin at a multiple of 32 bytes.
        exact: Whether a matrix of one row is something else than a vector.
    """

    wanted: dict[str, Wanted]
    model_types: tuple[str, ...]
    types: frozenset[int]
    aligned: bool
    exact: bool


def read_tensors(
    window: HeaderWindow, read: RangeReader, position: int, rules: TensorRules
) -> tuple[GgmlTensorPlace, ...]:
    """Step over all tensors from `position` to the end of the file.

    Raises:
        ModelFileError: A tensor is unknown, of a wrong shape or type, missing, comes twice, or the file ends too early.
    """
    window.section = FIRST_TENSOR
    tensors: list[GgmlTensorPlace] = []
    seen = set()
    while position < window.size_bytes:
        tensor = _read_tensor(window, read, position, rules)
        if tensor.name in seen:
            raise damaged(window.path, f"the tensor {tensor.name!r} comes twice")
        window.section = TENSORS
        position = tensor.offset + tensor.size_bytes
        if position > window.size_bytes:
            raise _incomplete(
                window.path,
                f"{position - window.size_bytes:,} bytes of its tensor {tensor.name!r} are missing, and all after it",
            )
        seen.add(tensor.name)
        tensors.append(tensor)
    missing = [name for name, wanted in rules.wanted.items() if name not in seen and not wanted.optional]
    if missing:
        raise _incomplete(
            window.path, f"{len(missing):,} of {len(rules.wanted):,} tensors are missing, {missing[0]!r} among them"
        )
    return tuple(tensors)


def _read_tensor(window: HeaderWindow, read: RangeReader, position: int, rules: TensorRules) -> GgmlTensorPlace:
    path = window.path
    data = read(position, _READ_BYTES)
    if len(data) < _NUMBERS.size:
        raise _incomplete(path, "it ends inside the header of a tensor")
    dimension_count, length, kind = _NUMBERS.unpack_from(data)
    if not 1 <= dimension_count <= 2 or not 1 <= length <= _MAX_NAME_BYTES:
        raise damaged(
            path,
            f"at byte {position:,} a tensor would have {dimension_count:,} dimensions and a name of {length:,} bytes",
        )
    start = _NUMBERS.size + 4 * dimension_count
    if len(data) < start + length:
        raise _incomplete(path, "it ends inside the header of a tensor")
    dimensions = struct.unpack_from(f"<{dimension_count}I", data, _NUMBERS.size)
    name = data[start : start + length].decode("utf-8", "replace")
    _check(path, name, dimensions, kind, rules)
    offset = position + start + length
    if rules.aligned:
        offset += -offset % _ALIGNMENT
    block = LEGACY_TENSOR_TYPES[kind]
    elements = dimensions[0] * (dimensions[1] if dimension_count == 2 else 1)
    return GgmlTensorPlace(name, dimensions, kind, offset, elements // block.block_size * block.block_bytes)


def _check(path: Path, name: str, dimensions: tuple[int, ...], kind: int, rules: TensorRules) -> None:
    wanted = rules.wanted.get(name)
    if wanted is None:
        raise damaged(path, f"it holds a tensor {name!r}, which no {' or '.join(rules.model_types)} has")
    if not _same_shape(wanted.dimensions, dimensions, exact=rules.exact):
        raise damaged(path, f"its tensor {name!r} is {_show(dimensions)}, and must be {_show(wanted.dimensions)}")
    allowed = frozenset({0}) if wanted.float32 else rules.types
    if kind not in allowed:
        found = LEGACY_TENSOR_TYPES[kind].name if kind in LEGACY_TENSOR_TYPES else f"the unknown type {kind:,}"
        names = ", ".join(LEGACY_TENSOR_TYPES[number].name for number in sorted(allowed))
        raise damaged(path, f"its tensor {name!r} is of {found}, and must be {names}")
    if dimensions[0] % LEGACY_TENSOR_TYPES[kind].block_size:
        block = LEGACY_TENSOR_TYPES[kind]
        raise damaged(
            path,
            f"its tensor {name!r} has rows of {dimensions[0]:,} weights, and {block.name} packs {block.block_size}",
        )


def _same_shape(wanted: tuple[int | None, ...], found: tuple[int, ...], *, exact: bool) -> bool:
    if not exact:
        wanted, found = _trimmed(wanted), _trimmed(found)
    if len(wanted) != len(found):
        return False
    return all(length == given or (length is None and given > 0) for length, given in zip(wanted, found, strict=True))


def _trimmed(dimensions: tuple[_Length, ...]) -> tuple[_Length, ...]:
    return dimensions[:1] if len(dimensions) == 2 and dimensions[1] == 1 else dimensions


def _show(dimensions: Sequence[int | None]) -> str:
    return " x ".join("any" if length is None else f"{length:,}" for length in dimensions)


def _incomplete(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path} is incomplete: {what}", fix="download the file again")
