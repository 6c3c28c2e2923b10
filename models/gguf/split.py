"""Put the parts of a split GGUF together: `NAME-00001-of-00003.gguf` and its sisters in the same folder.

The first part carries the model's metadata, the others little more than their number. Any part leads to all of them;
a missing one is named, because the fix is to fetch just that one.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmrun.errors import ModelFileError, ModelNotFoundError
from llmrun.models.gguf.types import MAX_TENSORS, GgufHeader, ValueType
from llmrun.models.gguf.window import damaged

__all__ = ["combine_parts", "split_place", "split_sisters"]

# Source: llama_split_path of llama.cpp: "%s-%05d-of-%05d.gguf"
_PART_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


def split_sisters(path: Path) -> tuple[Path, ...] | None:
    """Return the paths that all parts must have, judging by this part's name; None when it is not named as a part."""
    found = _PART_NAME.fullmatch(path.name)
    if found is None:
        return None
    count, number = int(found["count"]), int(found["number"])
    if not 1 <= number <= count:
        return None
    return tuple(path.with_name(f"{found['prefix']}-{index:05d}-of-{count:05d}.gguf") for index in range(1, count + 1))


def split_place(header: GgufHeader) -> tuple[int, int] | None:
    """Return (index from 0, number of parts) as the metadata says; None for a model in one file.

    Raises:
        ModelFileError: The split keys are of a wrong type or contradict each other.
    """
    if "split.count" not in header.metadata and "split.no" not in header.metadata:
        return None
    values = []
    for key in ("split.no", "split.count"):
        value = header.metadata.get(key, 0)
        # The native reader aborts on any other type.
        if not isinstance(value, int) or header.value_types.get(key, ValueType.UINT16) is not ValueType.UINT16:
            raise damaged(header.path, f"{key} is not a 16-bit number")
        values.append(value)
    index, count = values
    if count <= 1 and index == 0:
        return None
    if index >= count:
        raise damaged(header.path, f"it says that it is part {index + 1} of {count}")
    return index, count


def combine_parts(header: GgufHeader, read_part: Callable[[Path], GgufHeader]) -> GgufHeader:
    """Read the other parts and return the first part's header with the tensors of all.

    Raises:
        ModelFileError: A part is missing, is of another model, or is damaged.
    """
    place = split_place(header)
    sisters = split_sisters(header.path)
    if place is None or sisters is None or len(sisters) != place[1]:
        count = place[1] if place else 0
        raise ModelFileError(
            f"{header.path} is one of {count} parts, and must be called NAME-00001-of-{count:05d}.gguf to find them",
            fix="give the parts the names that they were published under",
        )
    parts = []
    for index, path in enumerate(sisters):
        part = header if path == header.path else _read_sister(header.path, path, read_part)
        if split_place(part) != (index, len(sisters)):
            raise damaged(path, f"its name says part {index + 1} of {len(sisters)}, its metadata says something else")
        parts.append(part)
    return _join(parts)


def _read_sister(asked: Path, path: Path, read_part: Callable[[Path], GgufHeader]) -> GgufHeader:
    try:
        return read_part(path)
    except ModelNotFoundError as error:
        raise ModelFileError(
            f"{asked} is part of a split model, and the part {path.name} is missing",
            fix=f"download {path.name} into {path.parent}",
        ) from error


def _join(parts: list[GgufHeader]) -> GgufHeader:
    first = parts[0]
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        raise damaged(first.path, "two parts hold a tensor of the same name")
    if len(tensors) > MAX_TENSORS:
        raise damaged(first.path, f"its parts have {len(tensors):,} tensors, and {MAX_TENSORS:,} is the limit")
    wanted = first.metadata.get("split.tensors.count")
    if isinstance(wanted, int) and wanted != len(tensors):
        raise damaged(first.path, f"its parts have {len(tensors):,} tensors, and {wanted:,} are announced")
    return replace(
        first,
        tensors=tensors,
        parts=tuple(part.parts[0] for part in parts),
        warnings=tuple(warning for part in parts for warning in part.warnings),
    )
