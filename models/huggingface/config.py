"""Read facts out of config.json, whatever its author called them: `Config`.

Publishers agree on little: `num_hidden_layers`, `n_layer` and `n_layers` mean one thing, a multimodal model nests its
language model's facts, and what equals a default is often left out. A table that ships with llmrun
(huggingface_types.json, made by tests/tools/folder_types.py) has the names and defaults of every model type that
transformers knows; the names that remote-code models use are listed here. A value of the wrong type or size is refused,
never guessed around.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from llmrun.errors import ModelFileError

__all__ = ["Config", "open_config"]

_TYPES = Path(__file__).with_name("types.json")
_TEXT_KEYS = ("text_config", "llm_config", "language_config", "thinker_config")
_MAX_NESTING = 3

# What models with code of their own call the same things: first generations of Baichuan, ChatGLM, InternLM, Qwen,
# Falcon (RefinedWeb), Phi, OpenELM, MPT, BLOOM. Their config.json files are the source.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers", "num_transformer_layers"),
    "hidden_size": ("n_embd", "n_embed", "d_model", "model_dim"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "num_query_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "num_key_value_heads_per_layer", "num_attention_groups"),
    "head_dim": ("kv_channels", "attention_head_dim", "head_size"),
    "max_position_embeddings": (
        *("n_positions", "max_seq_len", "seq_length", "max_sequence_length", "max_context_length"),
        *("model_max_length", "n_ctx"),
    ),
    "vocab_size": ("padded_vocab_size",),
    "sliding_window": ("window_size", "attention_window_size", "attention_chunk_size", "sliding_window_size"),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts", "moe_k"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The part of config.json that describes the language model.

    Attributes:
        path: The file, for messages.
        outer: The whole file.
        values: The part; the whole file unless it is nested.
        model_type: `llama`, or empty.
        names: What this type calls the common keys.
        defaults: What stands for a missing key.
        period: Kinds of layers that repeat where the file lists none.
    """

    path: Path
    outer: Mapping[str, Any]
    values: Mapping[str, Any]
    model_type: str
    names: Mapping[str, str]
    defaults: Mapping[str, Any]
    period: tuple[str, ...]

    def find(self, key: str) -> Any:
        """Return the value of a common key under any of its names, or its default, or None."""
        for name in self._names_of(key):
            if name in self.values:
                return self.values[name]
        for name in self._names_of(key):
            if name in self.defaults:
                return self.defaults[name]
        return None

    def is_stated(self, key: str) -> bool:
        """Tell whether the file itself has a common key."""
        return any(name in self.values for name in self._names_of(key))

    def whole(self, key: str, *, lowest: int = 0, highest: int = 2**24) -> int | None:
        """Return a whole number, or None when the file has none.

        Raises:
            ModelFileError: It is something else, or out of range.
        """
        return self.check_whole(key, self.find(key), lowest=lowest, highest=highest)

    def largest(self, key: str, *, highest: int = 2**24) -> int | None:
        """Return a whole number, the largest one where the file lists one for each layer.

        Raises:
            ModelFileError: It is something else, or out of range.
        """
        value = self.find(key)
        values = value if isinstance(value, list) else [value]
        found = [self.check_whole(key, entry, highest=highest) for entry in values]
        return max((entry for entry in found if entry is not None), default=None)

    def check_whole(self, key: str, value: object, *, lowest: int = 0, highest: int = 2**24) -> int | None:
        """Return `value`, which must be a whole number in the range, or None.

        Raises:
            ModelFileError: It is something else.
        """
        if isinstance(value, float) and isfinite(value) and value == int(value):
            value = int(value)
        if value is None:
            return None
        if type(value) is not int or not lowest <= value <= highest:
            raise ModelFileError(
                f"{self.path}: {key} must be a whole number from {lowest:,} to {highest:,}, and is {str(value)[:60]}"
            )
        return value

    def need(self, key: str, *, lowest: int = 1, highest: int = 2**24) -> int:
        """Return a whole number that every model has.

        Raises:
            ModelFileError: It is missing or impossible.
        """
        value = self.whole(key, lowest=lowest, highest=highest)
        if value is None:
            raise ModelFileError(f"{self.path} does not say {key}, which every model needs")
        return value

    def part(self, key: str) -> Mapping[str, Any]:
        """Return a nested object, empty where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, dict) else {}

    def _names_of(self, key: str) -> tuple[str, ...]:
        own = self.names.get(key)
        return (key, *((own,) if own else ()), *_OTHER_NAMES.get(key, ()))


def open_config(path: Path, outer: Mapping[str, Any]) -> Config:
    """Find the language model's part of a config.json and what is known of its type."""
    values, kind = outer, _text(outer.get("model_type"))
    for _ in range(_MAX_NESTING):
        inner = next((values[key] for key in _TEXT_KEYS if isinstance(values.get(key), dict)), None)
        if inner is None:
            break
        kind = _text(inner.get("model_type")) or _text(_row(kind).get("text"))
        values = inner
    row = _row(kind)
    if values is not outer and "vocab_size" not in values and isinstance(outer.get("vocab_size"), int):
        values = {**values, "vocab_size": outer["vocab_size"]}
    return Config(
        path=path,
        outer=outer,
        values=values,
        model_type=kind,
        names=row.get("names", {}),
        defaults=row.get("defaults", {}),
        period=tuple(row.get("layers", ())),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _row(model_type: str) -> Mapping[str, Any]:
    row: Mapping[str, Any] = _known_types().get(model_type, {})
    return row


@cache
def _known_types() -> Mapping[str, Any]:
    types: Mapping[str, Any] = json.loads(_TYPES.read_text(encoding="utf-8"))["types"]
    return types
