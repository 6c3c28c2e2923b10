"""Read what a model folder says about its tokenizer: kind, chat template, special tokens.

The vocabulary itself is not read; it is tens of megabytes, and the engine that runs the model has its own reader.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.models.file_source import FileSource
from llmrun.models.huggingface.json import find_json, read_text
from llmrun.models.types import SpecialTokens

__all__ = ["Tokenizer", "read_tokenizer"]

# One of these has the vocabulary.
_VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "spm.model", "tokenizer.model.v3"),
)
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "AutoTokenizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """What the folder says; the fields are those of `ModelInfo`.

    `remote_code` tells whether the tokenizer brings code along; `present` whether there is a vocabulary at all.
    """

    model: str | None
    chat_template: str | None
    special_tokens: SpecialTokens
    remote_code: bool
    present: bool
    warnings: tuple[str, ...] = ()


def read_tokenizer(source: FileSource, outer: Mapping[str, Any], text: Mapping[str, Any]) -> Tokenizer:
    """Read the files of the tokenizer.

    Args:
        source: The folder.
        outer: The whole config.json.
        text: Its part for the language model.

    Raises:
        ModelFileError: A file is damaged or too large.
        NetworkError: The server failed.
    """
    settings = find_json(source, "tokenizer_config.json") or {}
    mapped = find_json(source, "special_tokens_map.json") or {}
    generation = find_json(source, "generation_config.json") or {}
    template, warnings = _find_template(source, settings)
    present = any(
        name in _VOCABULARIES or name.endswith((".tiktoken", ".model")) or "vocab" in name
        for name in source.sizes
        if "/" not in name
    )
    return Tokenizer(
        model=_kind(source, settings) if present else None,
        chat_template=template,
        special_tokens=_special_tokens(settings, mapped, (generation, text, outer)),
        remote_code=_brings_code(settings),
        present=present,
        warnings=warnings,
    )


def _brings_code(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("auto_map"))


def _kind(source: FileSource, settings: Mapping[str, Any]) -> str:
    name = settings.get("tokenizer_class")
    if isinstance(name, str) and name and name not in _GENERIC_CLASSES:
        return name.removesuffix("Fast").removesuffix("Tokenizer").lower() or name.lower()
    return "tokenizers" if "tokenizer.json" in source.sizes else "sentencepiece"


def _find_template(source: FileSource, settings: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Return the chat template; a file of its own wins over the settings, as in transformers."""
    text = read_text(source, "chat_template.jinja")
    if text is not None and text.strip():
        return text, ()
    for value in ((find_json(source, "chat_template.json") or {}).get("chat_template"), settings.get("chat_template")):
        if isinstance(value, str) and value.strip():
            return value, ()
        if isinstance(value, list | dict) and value:
            return _choose_template(value)
    return None, ()


def _choose_template(value: list[Any] | dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Return the default one of several named templates."""
    if isinstance(value, dict):
        named = {str(name): text for name, text in value.items() if isinstance(text, str)}
    else:
        rows = [row for row in value if isinstance(row, dict)]
        named = {str(row.get("name")): row["template"] for row in rows if isinstance(row.get("template"), str)}
    if "default" in named and named["default"].strip():
        return named["default"], ()
    listed = ", ".join(sorted(name[:40] for name in named)[:5]) or "none that is text"
    return None, (f"the folder has no default chat template, only {listed}",)


def _special_tokens(
    settings: Mapping[str, Any], mapped: Mapping[str, Any], configs: tuple[Mapping[str, Any], ...]
) -> SpecialTokens:
    ids = {name: _find_id(f"{name}_token_id", configs) for name in ("bos", "eos", "unk", "pad")}
    decoder = settings.get("added_tokens_decoder")
    texts: dict[str, str | None] = {}
    for name in ("bos", "eos", "unk", "pad"):
        key = f"{name}_token"
        text = _text_of(settings.get(key))
        if text is None and key not in settings:
            text = _text_of(mapped.get(key))
        if text is None and key not in settings and isinstance(decoder, dict) and ids[name] is not None:
            text = _text_of(decoder.get(str(ids[name])))
        texts[name] = text
    add_bos = settings.get("add_bos_token")
    return SpecialTokens(
        bos=texts["bos"],
        eos=texts["eos"],
        unk=texts["unk"],
        pad=texts["pad"],
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        add_bos=add_bos if isinstance(add_bos, bool) else None,
    )


def _text_of(value: object) -> str | None:
    """Return a token that is written as text or as an object with its settings."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _find_id(key: str, configs: tuple[Mapping[str, Any], ...]) -> int | None:
    """Return the first id that a file states; of several that end an answer, the first."""
    for values in configs:
        value = values.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if type(value) is int and 0 <= value < 2**31:
            return value
    return None
