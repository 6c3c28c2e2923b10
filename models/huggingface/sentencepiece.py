"""Read a vocabulary in SentencePiece's own format (`tokenizer.model`), by the few fields that matter.

The file is a Protocol Buffers message; no library is needed for it. Refused: what is no such message, a piece that is
not text, and a vocabulary of words or characters, which no language model has.

Source: sentencepiece_model.proto of SentencePiece.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from llmrun.errors import ModelFileError
from llmrun.models.file_source import FileSource

__all__ = [
    "SENTENCEPIECE_NAME",
    "Algorithm",
    "Piece",
    "PieceKind",
    "Vocabulary",
    "is_sentencepiece",
    "read_sentencepiece",
]

SENTENCEPIECE_NAME = "tokenizer.model"
_MAX_BYTES = 64 * 1024**2
_MAX_PIECES = 2_000_000


class PieceKind(IntEnum):
    """What a piece is; the numbers are those of the format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Algorithm(IntEnum):
    """How a text is cut into pieces."""

    UNIGRAM = 1
    BPE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token."""

    text: str
    score: float
    kind: int

    @property
    def is_control(self) -> bool:
        """Whether it steers the model: a control token, or one of its publisher's that looks like one (`<eoh>`)."""
        marked = (self.text[:1], self.text[-1:]) in (("<", ">"), ("[", "]")) and len(self.text) > 2
        return self.kind == PieceKind.CONTROL or (self.kind in (PieceKind.USER_DEFINED, PieceKind.UNKNOWN) and marked)


@dataclass(slots=True, kw_only=True)
class Vocabulary:
    """What the file says; the values are the defaults of the format.

    Attributes:
        pieces: By id.
        algorithm: How a text is cut.
        charsmap: How characters are normalized before; empty: not at all.
        dummy_prefix: A space is put in front of a text.
        remove_spaces: Spaces at the ends are dropped, and several in a row become one.
    """

    pieces: list[Piece] = field(default_factory=list)
    algorithm: int = Algorithm.UNIGRAM
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_spaces: bool = True


def is_sentencepiece(source: FileSource) -> bool:
    """Whether a folder has such a file; other kinds of vocabularies have its name too."""
    return SENTENCEPIECE_NAME in source.sizes and source.read(SENTENCEPIECE_NAME, 0, 1) == b"\n"


def read_sentencepiece(source: FileSource) -> Vocabulary:
    """Read the vocabulary of a folder.

    Raises:
        ModelFileError: It is damaged, or of a kind that no language model has.
    """
    path, size_bytes = source.path / SENTENCEPIECE_NAME, source.sizes[SENTENCEPIECE_NAME]
    if size_bytes > _MAX_BYTES:
        raise ModelFileError(f"{path} is larger than any vocabulary: {size_bytes:,} bytes")
    try:
        found = _read(source.read(SENTENCEPIECE_NAME, 0, size_bytes))
    except (ValueError, IndexError, struct.error) as error:
        raise ModelFileError(f"{path} is no SentencePiece vocabulary: {error}", fix="download it again") from error
    if found.algorithm not in tuple(Algorithm) or not found.pieces:
        raise ModelFileError(f"{path} is a SentencePiece vocabulary of a kind that no language model has")
    return found


def _read(data: bytes) -> Vocabulary:
    """Read a `ModelProto`: pieces in field 1, training settings in 2, those of the normalizer in 3."""
    model = Vocabulary()
    seen: set[int] = set()
    for number, value in _fields(data):
        seen.add(number)
        if number == 1 and isinstance(value, bytes):
            model.pieces.append(_read_piece(value))
            if len(model.pieces) > _MAX_PIECES:
                raise ValueError(f"more than {_MAX_PIECES:,} pieces")
        elif number == 2 and isinstance(value, bytes):
            model.algorithm = next(
                (found for key, found in _fields(value) if key == 3 and isinstance(found, int)), Algorithm.UNIGRAM
            )
        elif number == 3 and isinstance(value, bytes):
            _read_normalizer(model, value)
    if not {2, 3} <= seen:  # they follow the pieces
        raise ValueError("its end is missing")
    return model


def _read_piece(data: bytes) -> Piece:
    text, score = "", 0.0
    kind: int = PieceKind.NORMAL
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text=text, score=score, kind=kind)


def _read_normalizer(model: Vocabulary, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            model.charsmap = value
        elif number == 3:
            model.dummy_prefix = bool(value)
        elif number == 4:
            model.remove_spaces = bool(value)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message in Protocol Buffers' format."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} has the unknown type {kind}")
        if length > len(data) - position:
            raise ValueError(f"field {number} ends beyond the file")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("a number is longer than any")
