"""Which texts of a model folder's vocabulary are control tokens, and which are tokens that were added as ordinary text.

Text from users must not become the former. `tokenizer.json` lists both; folders without it name the special ones in
their settings, and a vocabulary in SentencePiece's own format marks its own.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmrun.errors import ModelFileError
from llmrun.models.file_source import FileSource
from llmrun.models.huggingface.json import find_json, read_text
from llmrun.models.huggingface.sentencepiece import is_sentencepiece, read_sentencepiece

__all__ = ["read_added_tokens"]

_MAX_TOKENIZER_BYTES = 64 * 1024**2
_ADDED_TOKENS = re.compile(r'"added_tokens"\s*:\s*(?=\[)')
_SENTENCEPIECE = ("<s>", "</s>", "<unk>")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def read_added_tokens(source: FileSource) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of the control tokens and those of the other added tokens, each longest first.

    Raises:
        ModelFileError: A file is damaged or too large.
    """
    control: set[str] = set()
    ordinary: set[str] = set()
    settings = find_json(source, "tokenizer_config.json") or {}
    rows = _rows(source, settings)
    for text, special in rows:
        (control if special else ordinary).add(text)
    control |= set(_named(settings)) | set(_named(find_json(source, "special_tokens_map.json") or {}))
    if "tokenizer.json" not in source.sizes:
        control |= set(_SENTENCEPIECE)
        if is_sentencepiece(source):
            control |= {piece.text for piece in read_sentencepiece(source).pieces if piece.is_control}
    return _longest_first(control), _longest_first(ordinary - control)


def _rows(source: FileSource, settings: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield text and whether it is special, of every added token."""
    decoder = settings.get("added_tokens_decoder")
    rows = list(decoder.values()) if isinstance(decoder, dict) and decoder else _listed(source)
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("content"), str) and row["content"]:
            yield row["content"], bool(row.get("special", True))


def _listed(source: FileSource) -> list[Any]:
    """Return the added tokens of tokenizer.json; the vocabulary that follows them is megabytes, and is not parsed."""
    text = read_text(source, "tokenizer.json", max_bytes=_MAX_TOKENIZER_BYTES) or ""
    start = _ADDED_TOKENS.search(text)
    if start is None:
        return []
    try:
        found = json.JSONDecoder().raw_decode(text, start.end())[0]
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{source.path / 'tokenizer.json'} is damaged: {error}", fix="download it again"
        ) from error
    return found if isinstance(found, list) else []


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    extra = values.get("additional_special_tokens")
    for value in (*(values.get(name) for name in _NAMED), *(extra if isinstance(extra, list) else ())):
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            yield text


def _longest_first(texts: set[str]) -> tuple[str, ...]:
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))
