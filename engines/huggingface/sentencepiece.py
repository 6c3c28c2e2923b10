"""Use a vocabulary in SentencePiece's own format (`tokenizer.model`): `open_sentencepiece`.

It is turned into a tokenizer of the `tokenizers` library, with the same ids as SentencePiece gives: ranks of merges by
score, bytes for what has no piece, and the space in front of the text (and of nothing else) that most of these
vocabularies were trained with. So families whose tokenizer came as Python code need neither that code nor another
library. Control tokens are found in templates only, which SentencePiece itself never does.

Vocabularies of its other algorithm (`unigram`) are not for this module: in those, a text that looks like a control
token cannot be kept from becoming one.

Source: bpe_model.cc of SentencePiece.
"""

import importlib
import re
from typing import Any

from llmrun.models.huggingface.sentencepiece import PieceKind, Vocabulary

__all__ = ["Backend", "open_sentencepiece"]

_SPACE = "▁"
_BOS = "<s>"


class Backend:
    """A tokenizer that treats the spaces of a whole text first, as SentencePiece does; else it is the one below.

    The library itself would treat every stretch between two control tokens as a text.

    Args:
        below: A `tokenizers.Tokenizer`.
        prefix: What goes in front of a text.
        remove_spaces: Spaces at the ends are dropped, and several in a row become one.
    """

    def __init__(self, below: Any, prefix: str, *, remove_spaces: bool) -> None:
        object.__setattr__(self, "_below", below)
        object.__setattr__(self, "_prefix", prefix)
        object.__setattr__(self, "_remove_spaces", remove_spaces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._below, name, value)

    def encode(self, text: str, **settings: Any) -> Any:
        """Turn a text into tokens."""
        if self._remove_spaces:
            text = re.sub(" {2,}", " ", text).strip(" ")
        return self._below.encode(self._prefix + text if text else text, **settings)


def open_sentencepiece(model: Vocabulary, control: frozenset[str]) -> Backend:
    """Make a tokenizer of a vocabulary that was made by byte-pair encoding.

    Args:
        model: From `read_sentencepiece`.
        control: Texts that the settings name as control tokens, besides those of the file.
    """
    tokenizers: Any = importlib.import_module("tokenizers")
    backend = tokenizers.Tokenizer(_bpe(tokenizers, model))
    backend.normalizer = _normalizer(tokenizers, model)
    backend.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace(_SPACE, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    _add_tokens(tokenizers, backend, model, control)
    first = backend.token_to_id(_BOS)
    if first is not None:  # wanted, unless the settings say otherwise: the default of all these families
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{_BOS} $A", special_tokens=[(_BOS, first)]
        )
    return Backend(backend, " " if model.dummy_prefix else "", remove_spaces=model.remove_spaces)


def _bpe(tokenizers: Any, model: Vocabulary) -> Any:
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == PieceKind.NORMAL}
    ranked: list[tuple[float, int, int, str, str]] = []
    for text, score in scores.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in scores and right in scores:
                ranked.append((-score, vocabulary[left], vocabulary[right], left, right))
    unknown = next((piece.text for piece in model.pieces if piece.kind == PieceKind.UNKNOWN), None)
    return tokenizers.models.BPE(
        vocab=vocabulary,
        merges=[(left, right) for *_, left, right in sorted(ranked)],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=_has_bytes(model),
    )


def _has_bytes(model: Vocabulary) -> bool:
    return any(piece.kind == PieceKind.BYTE for piece in model.pieces)


def _normalizer(tokenizers: Any, model: Vocabulary) -> Any:
    normalizers = tokenizers.normalizers
    steps = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_spaces:
        steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _add_tokens(tokenizers: Any, backend: Any, model: Vocabulary, control: frozenset[str]) -> None:
    """Have control tokens found in templates only; the marks of turns among the user's own pieces count as such."""
    special: list[Any] = []
    plain: list[Any] = []
    for piece in model.pieces:
        is_control = piece.is_control or piece.text in control
        if is_control or piece.kind == PieceKind.USER_DEFINED:
            text = piece.text if is_control else piece.text.replace(_SPACE, " ")
            token = tokenizers.AddedToken(text, normalized=False, special=is_control)
            if backend.token_to_id(text) is not None:
                (special if is_control else plain).append(token)
    known = {piece.text for piece in model.pieces}
    special += [tokenizers.AddedToken(text, normalized=False, special=True) for text in sorted(control & known)]
    backend.add_special_tokens(special)
    backend.add_tokens(plain)
