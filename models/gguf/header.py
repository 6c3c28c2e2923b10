"""Read the header of a GGUF file without native code: what a model is, before anything that can crash sees it.

GGUF is one file: magic, version, two counts, metadata pairs, a tensor table, and then the weights, which are never
touched here. Native readers trust much of it and abort on what they did not expect; this reader trusts nothing, has
a limit for everything, and says in one sentence what is wrong. It refuses what no engine would read: GGUF version 1,
big-endian files, arrays in arrays, tensors that are not where they should be.

It must be quick, because it stands before the first token: numbers and texts are made, arrays are stepped over.
The same reader takes a file in a repository, of which only the header is fetched.

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmrun.errors import ModelFileError, ModelNotFoundError
from llmrun.models.file_source import FileSource
from llmrun.models.gguf.metadata import read_metadata, read_number
from llmrun.models.gguf.split import combine_parts, split_place
from llmrun.models.gguf.tensors import read_tensors
from llmrun.models.gguf.types import (
    MAX_METADATA_PAIRS,
    MAX_TENSORS,
    GgufArray,
    GgufHeader,
    GgufTensor,
    GgufValue,
    ValueType,
)
from llmrun.models.gguf.window import FIRST_READ_BYTES, HeaderWindow, damaged, descriptor_reader
from llmrun.models.sniff import FileKind, identify, open_regular

__all__ = [
    "GgufArray",
    "GgufHeader",
    "GgufTensor",
    "GgufValue",
    "ValueType",
    "read_gguf_header",
    "read_remote_gguf_header",
]

_REMOTE_AHEAD_BYTES = 2 * 1024 * 1024  # about what a line carries in the time of one more request
_OTHER_PART_BYTES = 256 * 1024  # only the first part has the vocabulary
_DEFAULT_ALIGNMENT = 32  # Source: GGUF_DEFAULT_ALIGNMENT (gguf.h)


def read_gguf_header(path: Path, *, vocabulary_only: bool = False) -> GgufHeader:
    """Read and check a GGUF file, or all parts of a split one when given any of them.

    Args:
        path: The file.
        vocabulary_only: Accept a file without tensors, such as a vocabulary on its own.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: It is not a GGUF, is damaged or incomplete, or a part of it is missing.
    """
    return _whole_model(_read_part(path), _read_part, vocabulary_only=vocabulary_only)


def read_remote_gguf_header(source: FileSource, name: str) -> GgufHeader:
    """Read and check the header of a GGUF file, or of all parts of a split one, without fetching its weights.

    Args:
        source: Where the file is.
        name: Its name there.

    Raises:
        ModelNotFoundError: The source has no such file.
        ModelFileError: It is not a GGUF, is damaged or incomplete, or a part of it is missing.
        NetworkError: The server failed.
    """
    first = _read_part_of(source, source.path / name, FIRST_READ_BYTES)
    return _whole_model(first, lambda path: _read_part_of(source, path, _OTHER_PART_BYTES), vocabulary_only=False)


def _whole_model(header: GgufHeader, read_part: Callable[[Path], GgufHeader], *, vocabulary_only: bool) -> GgufHeader:
    if split_place(header) is not None:
        header = combine_parts(header, read_part)
    if not header.tensors and not vocabulary_only:
        raise ModelFileError(
            f"{header.path} holds no weights: it is a vocabulary or a header on its own",
            fix="download the model's own .gguf file",
        )
    return header


def _read_part(path: Path) -> GgufHeader:
    descriptor, size_bytes = open_regular(path)
    try:
        return _read_header(HeaderWindow(path, size_bytes, descriptor_reader(path, descriptor)))
    finally:
        os.close(descriptor)


def _read_part_of(source: FileSource, path: Path, first_bytes: int) -> GgufHeader:
    name = path.relative_to(source.path).as_posix()
    size_bytes = source.sizes.get(name)
    if size_bytes is None:
        raise ModelNotFoundError(f"{source.path} has no file {name}")
    read = partial(source.read, name)
    window = HeaderWindow(path, size_bytes, read, first_bytes=first_bytes, ahead_bytes=_REMOTE_AHEAD_BYTES)
    return replace(_read_header(window), beginning=window.data)


def _read_header(window: HeaderWindow) -> GgufHeader:
    version = _read_version(window)
    tensor_count, position = read_number(window, 8, "Q")
    pair_count, position = read_number(window, position, "Q")
    for count, limit, what in (
        (tensor_count, MAX_TENSORS, "tensors"),
        (pair_count, MAX_METADATA_PAIRS, "metadata pairs"),
    ):
        if count > limit:
            raise damaged(window.path, f"it would have {count:,} {what}, and {limit:,} is the limit")
    metadata, types, warnings, position = read_metadata(window, position, int(pair_count))
    alignment = _read_alignment(window, metadata, types)
    tensors, data_offset = read_tensors(window, position, int(tensor_count), alignment)
    return GgufHeader(
        path=window.path,
        version=version,
        alignment=alignment,
        metadata=metadata,
        value_types=types,
        tensors=tensors,
        data_offset=data_offset,
        file_size_bytes=window.size_bytes,
        parts=((window.path, window.size_bytes),),
        warnings=warnings,
    )


def _read_version(window: HeaderWindow) -> int:
    head = window.need(min(512, window.size_bytes))[:512] if window.size_bytes else b""
    found = identify(head, window.size_bytes)
    if found.kind is not FileKind.GGUF:
        raise ModelFileError(f"{window.path} is not a GGUF file: it is {found.description}", fix=found.fix)
    window.need(24)
    if found.big_endian:
        raise ModelFileError(
            f"{window.path} is a big-endian GGUF file (version {found.version}), and only little-endian ones are read",
            fix="download the little-endian file of the model",
        )
    if found.version == 1:
        raise ModelFileError(
            f"{window.path} is GGUF version 1, which no engine reads any more",
            fix="download a newer file of the model",
        )
    if found.version not in (2, 3):
        raise ModelFileError(
            f"{window.path} is GGUF version {found.version}, and versions 2 and 3 are known",
            fix="update llmrun, or download another file of the model",
        )
    return found.version


def _read_alignment(window: HeaderWindow, metadata: dict[str, GgufValue], types: dict[str, ValueType]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or types.get("general.alignment", ValueType.UINT32) is not ValueType.UINT32:
        raise damaged(window.path, "general.alignment is not a 32-bit number")
    if value <= 0 or value & (value - 1):
        raise damaged(window.path, f"general.alignment is {value}, which is not a power of two")
    return value
