"""Look into the vocabulary of a GGUF file: single tokens, control tokens, chat templates.

The texts stay in the file until one is asked for. A token's text is found from the nearest checkpoint, so that the
beginning-of-sequence token of a 262,144-token vocabulary costs one short read.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from llmrun.errors import ModelFileError
from llmrun.models.gguf.header import read_gguf_header
from llmrun.models.gguf.metadata import CHECKPOINT_ENTRIES
from llmrun.models.gguf.types import GgufArray, GgufHeader, ValueType
from llmrun.models.gguf.values import find_array
from llmrun.models.sniff import open_regular

__all__ = [
    "TOKENS_KEY",
    "TOKEN_TYPES_KEY",
    "read_array_bytes",
    "read_chat_templates",
    "read_control_tokens",
    "read_texts",
]

TOKENS_KEY = "tokenizer.ggml.tokens"
TOKEN_TYPES_KEY = "tokenizer.ggml.token_type"  # noqa: S105 - a metadata key, not a secret
_TEMPLATE_KEY = "tokenizer.chat_template"

# Source: enum llama_token_type (llama.h)
_CONTROL = 3
_USER_DEFINED = 4
_unpack_u64: Callable[[bytes, int], tuple[int]] = struct.Struct("<Q").unpack_from


def read_control_tokens(source: Path | GgufHeader, *, user_defined: bool = False) -> tuple[str, ...]:
    """Return the texts of the tokens that steer a model, longest first, so that the first match is the right one.

    Text from users must not contain them as tokens. Engines recognise control tokens only where they are told to,
    and user-defined ones (runs of spaces, tool marks) everywhere.

    Args:
        source: The file, or its header.
        user_defined: Return the user-defined tokens instead of the control tokens.

    Raises:
        ModelFileError: The file is damaged, or changed since its header was read.
    """
    header = read_gguf_header(source, vocabulary_only=True) if isinstance(source, Path) else source
    tokens, types = find_array(header, TOKENS_KEY), find_array(header, TOKEN_TYPES_KEY)
    if tokens is None or types is None or types.element_type is not ValueType.INT32:
        return ()
    wanted = _USER_DEFINED if user_defined else _CONTROL
    found = [index for index in _positions_of(read_array_bytes(header, types), wanted) if index < tokens.count]
    texts = read_texts(header, tokens, found).values()
    return tuple(sorted({text for text in texts if text}, key=lambda text: (-len(text), text)))


def _positions_of(numbers: bytes, wanted: int) -> Iterator[int]:
    """Yield the indices of a value in an array of 32-bit numbers; a byte search, for few among very many."""
    pattern = struct.pack("<i", wanted)
    place = numbers.find(pattern)
    while place >= 0:
        if place % 4 == 0:
            yield place // 4
            place = numbers.find(pattern, place + 4)
        else:
            place = numbers.find(pattern, place + 1)


def read_texts(header: GgufHeader, array: GgufArray, indices: Iterable[int]) -> Mapping[int, str]:
    """Return the texts at some places of an array of texts; places outside it are left out.

    Raises:
        ModelFileError: The file changed since its header was read.
    """
    wanted = sorted({index for index in indices if 0 <= index < array.count})
    if not wanted:
        return {}
    first_block, last_block = wanted[0] // CHECKPOINT_ENTRIES, wanted[-1] // CHECKPOINT_ENTRIES
    start = array.checkpoints[first_block]
    after = array.checkpoints[last_block + 1 : last_block + 2]
    end = after[0] if after else array.offset + array.size_bytes
    data = _read_range(header, start, end)
    texts: dict[int, str] = {}
    index, position = -1, 0
    try:
        for target in wanted:
            block = target // CHECKPOINT_ENTRIES
            if index < block * CHECKPOINT_ENTRIES:
                index, position = block * CHECKPOINT_ENTRIES, array.checkpoints[block] - start
            for _ in range(target - index):
                position += 8 + _unpack_u64(data, position)[0]
            length = _unpack_u64(data, position)[0]
            texts[target] = data[position + 8 : position + 8 + length].decode("utf-8", "replace")
            index = target
    except (struct.error, OverflowError) as error:
        raise _changed(header) from error
    return texts


def read_array_bytes(header: GgufHeader, array: GgufArray) -> bytes:
    """Return an array as it stands in the file.

    Raises:
        ModelFileError: The file changed since its header was read.
    """
    return _read_range(header, array.offset, array.offset + array.size_bytes)


def read_chat_templates(header: GgufHeader) -> Mapping[str, str]:
    """Return the chat templates of a model by name; the one without a name is `default`."""
    templates = {
        key.removeprefix(_TEMPLATE_KEY).removeprefix(".") or "default": value
        for key, value in header.metadata.items()
        if isinstance(value, str) and (key == _TEMPLATE_KEY or key.startswith(_TEMPLATE_KEY + "."))
    }
    return {name: text for name, text in templates.items() if text.strip()}


def _read_range(header: GgufHeader, start: int, end: int) -> bytes:
    if header.beginning is not None:
        return header.beginning[start:end]
    descriptor, size_bytes = open_regular(header.path)
    try:
        if size_bytes != header.file_size_bytes:
            raise _changed(header)
        os.lseek(descriptor, start, os.SEEK_SET)
        pieces = []
        left = end - start
        while left > 0:
            piece = os.read(descriptor, left)
            if not piece:
                raise _changed(header)
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
    except OSError as error:
        raise ModelFileError(f"cannot read {header.path}: {error.strerror or error}") from error
    finally:
        os.close(descriptor)


def _changed(header: GgufHeader) -> ModelFileError:
    return ModelFileError(f"{header.path} changed while it was read", fix="try again when the download has ended")
