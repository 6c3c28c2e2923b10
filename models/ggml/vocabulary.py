"""Step over the vocabulary of a legacy file, and read tokens of it when they are asked for.

A token is a length and so many bytes, with a score behind it in some files. Stepping over 50,000 of them takes some
milliseconds; making their texts takes longer and is needed only for a conversion.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from llmrun.errors import ModelFileError
from llmrun.models.ggml.types import GgmlHeader, GgmlVocabulary
from llmrun.models.gguf.window import HeaderWindow, damaged

__all__ = ["find_token", "read_tokens", "skip_merges", "skip_tokens"]

_EVERY = 256
_MAX_TOKEN_BYTES = 4_096
_unpack_u32: Callable[[bytes, int], tuple[int]] = struct.Struct("<I").unpack_from


def skip_tokens(window: HeaderWindow, position: int, count: int, *, scored: bool, utf8: bool) -> GgmlVocabulary:
    """Step over `count` tokens from `position` on.

    Args:
        window: The file.
        position: Where the first token begins.
        count: How many there are.
        scored: Whether each has a score.
        utf8: Whether the loader takes their bytes for UTF-8, and dies of what is not.

    Raises:
        ModelFileError: The file ends before they do, or a token cannot be one.
    """
    window.section = "vocabulary"
    start, data, extra = position, window.data, 4 if scored else 0
    checkpoints = []
    for index in range(count):
        if not index % _EVERY:
            checkpoints.append(position)
        if position + 4 > len(data):
            data = window.need(position + 4)
        length = _unpack_u32(data, position)[0]
        if length > _MAX_TOKEN_BYTES:
            raise damaged(
                window.path,
                f"token {index:,} of {count:,} would be {length:,} bytes long, and {_MAX_TOKEN_BYTES:,} is the limit",
            )
        if utf8:
            data = window.need(position + 4 + length)
            _check_utf8(window.path, index, data[position + 4 : position + 4 + length])
        position += 4 + length + extra
    window.need(position)
    return GgmlVocabulary(count=count, offset=start, end=position, scored=scored, checkpoints=tuple(checkpoints))


def _check_utf8(path: Path, index: int, text: bytes) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"token {index:,} is not UTF-8, as the tokens of this model type must be") from error


def skip_merges(window: HeaderWindow, position: int, announced: int) -> int:
    """Step over the merges that some falcon files have after the tokens, and return where the next byte is.

    Raises:
        ModelFileError: The file ends before they do, or they contradict what was announced.
    """
    window.section = "merges"
    data = window.need(position + 4)
    count = _unpack_u32(data, position)[0]
    position += 4
    if count != announced:
        raise damaged(window.path, f"it announces {announced:,} merges, and then {count:,}")
    for index in range(2 * count):
        if position + 4 > len(data):
            data = window.need(position + 4)
        length = _unpack_u32(data, position)[0]
        if length > _MAX_TOKEN_BYTES:
            raise damaged(window.path, f"merge {index // 2:,} has a part of {length:,} bytes")
        position += 4 + length
    window.need(position)
    return position


def find_token(data: bytes, vocabulary: GgmlVocabulary, text: bytes) -> int | None:
    """Return the id of the first token with exactly this text, or None.

    Args:
        data: The beginning of the file, with the whole vocabulary in it.
        vocabulary: Where it is.
        text: Of the token.
    """
    wanted = struct.pack("<I", len(text)) + text
    found = data.find(wanted, vocabulary.offset, vocabulary.end)
    while found >= 0:
        index = _index_at(data, vocabulary, found)
        if index is not None:
            return index
        found = data.find(wanted, found + 1, vocabulary.end)
    return None


def _index_at(data: bytes, vocabulary: GgmlVocabulary, place: int) -> int | None:
    """Return the id of the token that begins at a place, or None when none begins there."""
    from bisect import bisect_right

    block = bisect_right(vocabulary.checkpoints, place) - 1
    index, position = block * _EVERY, vocabulary.checkpoints[block]
    while position < place:
        position += 4 + _unpack_u32(data, position)[0] + (4 if vocabulary.scored else 0)
        index += 1
    return index if position == place else None


def read_tokens(header: GgmlHeader) -> Iterator[tuple[bytes, float]]:
    """Yield every token of a checked file with its score, 0.0 where there is none.

    Raises:
        ModelFileError: The file cannot be read, or became shorter.
    """
    vocabulary = header.vocabulary
    try:
        with header.path.open("rb") as file:
            file.seek(vocabulary.offset)
            data = file.read(vocabulary.end - vocabulary.offset)
    except OSError as error:
        raise ModelFileError(f"cannot read {header.path}: {error.strerror or error}") from error
    position = 0
    try:
        for _ in range(vocabulary.count):
            length = _unpack_u32(data, position)[0]
            text = data[position + 4 : position + 4 + length]
            position += 4 + length
            score = 0.0
            if vocabulary.scored:
                score = struct.unpack_from("<f", data, position)[0]
                position += 4
            yield text, score
    except struct.error as error:
        raise ModelFileError(f"{header.path} changed while it was read", fix="download the file again") from error
