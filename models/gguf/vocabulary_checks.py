"""Refuse a vocabulary that native code would abort on, or tokenize into nonsense, and say which key is wrong.

The kinds of tokenizer and what each needs: source llama_vocab::impl::load in llama.cpp's src/llama-vocab.cpp. The
names of pre-tokenizers (`tokenizer.ggml.pre`) are not checked: they grow with every release of the engine, which
refuses unknown ones cleanly.
"""

import struct
from collections.abc import Callable

from llmrun.errors import ModelFileError
from llmrun.models.gguf.types import GgufArray, GgufHeader, ValueType
from llmrun.models.gguf.values import find_array, find_text, find_whole, need_text
from llmrun.models.gguf.vocabulary import TOKEN_TYPES_KEY, TOKENS_KEY, read_array_bytes
from llmrun.models.gguf.window import damaged

__all__ = ["TOKENIZER_KEY", "check_vocabulary", "has_vocabulary", "read_special_id"]

TOKENIZER_KEY = "tokenizer.ggml.model"
_SCORES_KEY = "tokenizer.ggml.scores"
_MERGES_KEY = "tokenizer.ggml.merges"

_BYTE_PAIR = frozenset({"gpt2", "gemma4", "hybriddna", "whitespace"})
_WITH_SCORES = frozenset({"llama", "t5", "plamo2"})
_WITHOUT_VOCABULARY = frozenset({"none", "no_vocab"})
_KNOWN = _BYTE_PAIR | _WITH_SCORES | _WITHOUT_VOCABULARY | {"bert", "rwkv"}
# Kimi K2 splits words without merges.
_PRE_WITHOUT_MERGES = "kimi-k2"

# A token that every vocabulary of the kind has: without it the engine's tokenizer throws in the middle of a request,
# or fails an assertion while loading. Source: byte_to_token and the newline token in llama-vocab.cpp.
_HALLMARKS = {
    "llama": (b"<0x0A>", b"\n"),
    "plamo2": (b"<0x0A>",),
    "rwkv": (b"\\n",),
    "bert": (b"[UNK]", b"<unk>"),
    "gemma4": (b"<0x0A>",),
    "t5": ("\u2581".encode(),),  # the mark that stands for a space
}
# -1 in an unsigned field: exporters write it for "there is none".
_NO_TOKEN = 0xFFFFFFFF
_REQUIRED_IDS = ("bos", "eos")
_SPECIAL_IDS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}
_unpack_u64: Callable[[bytes, int], tuple[int]] = struct.Struct("<Q").unpack_from


def has_vocabulary(header: GgufHeader) -> bool:
    """Tell whether the file carries tokens at all; a few speech models do not."""
    return find_text(header, TOKENIZER_KEY) not in _WITHOUT_VOCABULARY


def check_vocabulary(header: GgufHeader) -> tuple[str, ...]:
    """Check the tokenizer's kind against the arrays that it needs.

    Returns:
        What is odd but not fatal.

    Raises:
        ModelFileError: A key is missing, of an unknown kind, or contradicts another.
    """
    kind = need_text(header, TOKENIZER_KEY)
    if kind not in _KNOWN:
        raise ModelFileError(
            f"{header.path} has the unknown tokenizer {kind!r} ({TOKENIZER_KEY})",
            fix="update llmrun, or take another GGUF of this model",
        )
    if kind in _WITHOUT_VOCABULARY:
        return ()
    tokens = _need_texts(header, TOKENS_KEY, kind)
    if tokens.count == 0:
        raise damaged(header.path, f"{TOKENS_KEY} is empty")
    _check_same_length(header, TOKEN_TYPES_KEY, tokens.count, (ValueType.INT32,))
    scores = _check_same_length(header, _SCORES_KEY, tokens.count, (ValueType.FLOAT32, ValueType.INT32))
    if kind in _WITH_SCORES and scores is None:
        raise _contradicts(header, kind, f"there is no {_SCORES_KEY}")
    if kind in _BYTE_PAIR and find_text(header, "tokenizer.ggml.pre") != _PRE_WITHOUT_MERGES:
        _need_texts(header, _MERGES_KEY, kind)
    _check_texts(header, kind, tokens)
    return _check_special_ids(header, tokens.count)


def read_special_id(header: GgufHeader, name: str) -> int | None:
    """Return the id of the `bos`, `eos`, `unk` or `pad` token; None when there is none in the vocabulary."""
    value = find_whole(header, _SPECIAL_IDS[name])
    tokens = find_array(header, TOKENS_KEY)
    if value is None or tokens is None or not 0 <= value < tokens.count:
        return None
    return value


def _need_texts(header: GgufHeader, key: str, kind: str) -> GgufArray:
    array = find_array(header, key)
    if array is None:
        raise _contradicts(header, kind, f"there is no {key}")
    if array.element_type is not ValueType.STRING:
        raise damaged(header.path, f"{key} should hold texts, and holds {array.element_type.name.lower()}")
    return array


def _check_same_length(
    header: GgufHeader, key: str, count: int, element_types: tuple[ValueType, ...]
) -> GgufArray | None:
    array = find_array(header, key)
    if array is None:
        return None
    if array.element_type not in element_types:
        raise damaged(header.path, f"{key} holds {array.element_type.name.lower()}")
    if array.count != count:
        raise damaged(header.path, f"{key} has {array.count:,} entries for a vocabulary of {count:,} tokens")
    return array


def _check_texts(header: GgufHeader, kind: str, tokens: GgufArray) -> None:
    """Look for the token that the kind cannot do without, and for a text that comes twice: the engine aborts on it."""
    data = read_array_bytes(header, tokens)
    hallmarks = _HALLMARKS.get(kind)
    if hallmarks and not any(struct.pack("<Q", len(text)) + text in data for text in hallmarks):
        raise _contradicts(header, kind, f"the vocabulary has no token {hallmarks[0].decode()!r}")
    texts = []
    position = 0
    unpack = _unpack_u64
    for _ in range(tokens.count):
        start = position + 8
        position = start + unpack(data, position)[0]
        texts.append(data[start:position])
    if len(set(texts)) == tokens.count:
        return
    seen = {b""}  # empty texts may repeat: the engine gives each a name of its own
    for text in texts:
        if text and text in seen:
            raise damaged(header.path, f"the token {text.decode('utf-8', 'replace')!r} comes twice in its vocabulary")
        seen.add(text)


def _check_special_ids(header: GgufHeader, count: int) -> tuple[str, ...]:
    warnings = []
    for name, key in _SPECIAL_IDS.items():
        value = find_whole(header, key)
        if value is None or 0 <= value < count:
            continue
        if name in _REQUIRED_IDS and value != _NO_TOKEN:
            raise damaged(header.path, f"{key} is {value:,}, and the vocabulary has {count:,} tokens")
        warnings.append(f"{key} is {value:,}, which is not in the vocabulary: ignored")
    return tuple(warnings)


def _contradicts(header: GgufHeader, kind: str, what: str) -> ModelFileError:
    return ModelFileError(
        f"{header.path} says that its tokenizer is {kind!r} ({TOKENIZER_KEY}), but {what}",
        fix="take another GGUF of this model",
    )
