"""The vocabulary of a legacy llama, as a GGUF has it: texts, scores and the kind of every token.

Legacy files have the bytes that a token stands for: a space where SentencePiece has U+2581, one raw byte for a byte
token, nothing at all for a control token. A GGUF has SentencePiece's own spelling, and says of each token what it is.

Source: convert.py of llama.cpp in July 2023, which wrote those files (SentencePieceVocab.all_tokens), and the token
types of llama.h.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from llmrun.errors import ModelFileError

__all__ = ["SpmVocabulary", "read_spm_vocabulary"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_FIRST = (("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL))
_FIRST_BYTE = len(_FIRST)
_ADDED_SCORE = -1000.0  # what convert.py gave the tokens of added_tokens.json
_LOOKS_LIKE_CONTROL = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")


class SpmVocabulary(NamedTuple):
    """Parallel lists, one entry a token."""

    texts: list[str]
    scores: list[float]
    types: list[int]


def read_spm_vocabulary(path: Path, tokens: Iterable[tuple[bytes, float]]) -> SpmVocabulary:
    """Return the tokens of a llama in the spelling of SentencePiece.

    Args:
        path: For messages.
        tokens: Bytes and score of each, in order.

    Raises:
        ModelFileError: It is the vocabulary of another tokenizer.
    """
    texts: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    seen: set[str] = set()
    for index, (raw, score) in enumerate(tokens):
        text, kind = _spell(path, index, raw, score)
        if text in seen:  # a loader finds a token by its text, so only the first can be meant
            text, kind = f"<|unused_{index}|>", _UNUSED
        seen.add(text)
        texts.append(text)
        scores.append(score if kind in (_NORMAL, _USER_DEFINED) else 0.0)
        types.append(kind)
    return SpmVocabulary(texts, scores, types)


def _spell(path: Path, index: int, raw: bytes, score: float) -> tuple[str, int]:
    if index < _FIRST_BYTE:
        return _FIRST[index]
    if index < _FIRST_BYTE + 256:
        byte = index - _FIRST_BYTE
        if raw not in (bytes([byte]), f"<0x{byte:02X}>".encode()):
            raise ModelFileError(
                f"{path}: token {index} should be the byte {byte:#04x}, and is {raw!r}: its tokenizer is not the one "
                "that llama files have, so it cannot be converted",
                fix="run it as it is: llmrun run FILE --engine ctransformers; or take a GGUF of the model",
            )
        return f"<0x{byte:02X}>", _BYTE
    if not raw:
        return f"<|control_{index}|>", _CONTROL
    text = raw.decode("utf-8", "replace")
    if score == _ADDED_SCORE:
        return text, _CONTROL if _LOOKS_LIKE_CONTROL.fullmatch(text) else _USER_DEFINED
    return text.replace(" ", "\u2581"), _NORMAL
