"""What each layer of a Hugging Face model keeps: heads of keys and values, and over which window.

`read_attention` answers from config.json. A layer is of one of three kinds: it attends to everything, to a window, or
it keeps a state of a fixed size (Mamba, linear attention, convolution) and no keys at all.

Multi-head latent attention caches one compressed vector for a token in place of keys and values. As in a GGUF of such
a model it counts as one head: the key has kv_lora_rank + qk_rope_head_dim numbers, the value none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmrun.errors import ModelFileError
from llmrun.models.huggingface.config import Config

__all__ = ["Attention", "read_attention"]

_FULL, _WINDOW, _STATE = "full", "window", "state"
_MAX_LAYERS = 1_024
# Names of the kinds, from the configuration classes of transformers 5.19.0; a name that is not here means _FULL.
_KINDS = {
    **dict.fromkeys(("sliding_attention", "chunked_attention", "local", "local_attention", "sliding"), _WINDOW),
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "conv", "recurrent", "moe", "mlp", "linear"), _STATE),
}
_STATE_TYPES = frozenset({"mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Facts for the KV cache; the fields are those of `ModelInfo`."""

    layers: int
    embedding_length: int
    heads: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    sliding_window: int | None = None
    sliding_window_layers: tuple[bool, ...] = field(default=())
    window_key_length: int | None = None
    window_value_length: int | None = None


def read_attention(config: Config) -> Attention:
    """Return what every layer keeps.

    Raises:
        ModelFileError: A value is missing, impossible, or contradicts another.
    """
    layers = _count_layers(config)
    width = config.need("hidden_size")
    kinds = _layer_kinds(config, layers)
    if all(kind == _STATE for kind in kinds):
        return Attention(
            layers=layers, embedding_length=width, heads=0, kv_heads=(0,) * layers, key_length=0, value_length=0
        )
    heads = _heads_each(config, layers)
    key, value = _head_lengths(config, width, max(heads))
    window = config.whole("sliding_window", highest=2**31 - 1) or None
    windowed = tuple(kind == _WINDOW for kind in kinds) if window else ()
    full_key, full_value, window_key, window_value = _lengths_by_kind(config, key, value)
    return Attention(
        layers=layers,
        embedding_length=width,
        heads=max(heads),
        kv_heads=_kv_heads(config, heads, kinds),
        key_length=full_key,
        value_length=full_value,
        sliding_window=window if any(windowed) else None,
        sliding_window_layers=windowed if any(windowed) else (),
        window_key_length=window_key if any(windowed) and window_key != full_key else None,
        window_value_length=window_value if any(windowed) and window_value != full_value else None,
    )


def _count_layers(config: Config) -> int:
    pattern = config.values.get("hybrid_override_pattern")
    listed = config.values.get("layers_block_type")
    if not config.is_stated("num_hidden_layers"):
        for kinds in (pattern, listed):
            if isinstance(kinds, str | list) and 0 < len(kinds) <= _MAX_LAYERS:
                return len(kinds)
    return config.need("num_hidden_layers", highest=_MAX_LAYERS)


def _heads_each(config: Config, layers: int) -> tuple[int, ...]:
    value = config.find("num_attention_heads")
    if value is None:
        raise ModelFileError(f"{config.path} does not say num_attention_heads, which every model needs")
    heads = _each(config, "num_attention_heads", value, layers, lowest=1)
    if not any(heads):
        raise ModelFileError(f"{config.path}: no layer has attention heads")
    return heads


def _each(config: Config, key: str, value: object, layers: int, *, lowest: int = 0) -> tuple[int, ...]:
    """Return a number for each layer, from one number for all or from a list."""
    if not isinstance(value, list):
        return (config.check_whole(key, value, lowest=lowest, highest=2**16) or 0,) * layers
    if len(value) < layers:
        raise ModelFileError(f"{config.path}: {key} lists {len(value)} layers of {layers}")
    return tuple(config.check_whole(key, entry, highest=2**16) or 0 for entry in value[:layers])


def _kv_heads(config: Config, heads: tuple[int, ...], kinds: tuple[str, ...]) -> tuple[int, ...]:
    layers = len(kinds)
    if _is_latent(config):
        counts: tuple[int, ...] = (1,) * layers
    else:
        counts = _stated_kv_heads(config, heads)
    by_kind = {
        _FULL: config.values.get("num_global_key_value_heads"),
        _WINDOW: config.values.get("swa_num_key_value_heads"),
    }
    shared = config.check_whole("num_kv_shared_layers", config.values.get("num_kv_shared_layers")) or 0
    own = layers - shared if 0 < shared < layers else layers  # the last layers read what earlier ones keep
    found = []
    for index, kind in enumerate(kinds):
        other = config.check_whole("key/value heads", by_kind.get(kind), highest=2**16)
        count = counts[index] if other is None else other
        found.append(0 if kind == _STATE or index >= own else count)
    return tuple(found)


def _stated_kv_heads(config: Config, heads: tuple[int, ...]) -> tuple[int, ...]:
    layers = len(heads)
    blocks = config.values.get("block_configs")
    if isinstance(blocks, list) and len(blocks) >= layers:
        return tuple(_kv_heads_of_block(block, count) for block, count in zip(blocks, heads, strict=False))
    for part in ("attn_config", "attention_config"):
        if config.part(part).get("kv_n_heads") is not None:
            return _each(config, f"{part}.kv_n_heads", config.part(part)["kv_n_heads"], layers, lowest=1)
        if config.part(part).get("attn_type") == "multiquery_attention":
            return (1,) * layers
    special = _special_kv_heads(config, heads)
    if special is not None:
        return special
    value = config.find("num_key_value_heads")
    counts = heads if value is None else _each(config, "num_key_value_heads", value, layers, lowest=1)
    for count, kv_count in zip(heads, counts, strict=True):
        if count and kv_count and count % kv_count:
            raise ModelFileError(f"{config.path}: {count} attention heads cannot share {kv_count} key/value heads")
    return counts


def _special_kv_heads(config: Config, heads: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the heads of models that say them with switches.

    Source: FalconConfig and its attention in transformers; configuration_chatglm.py of ChatGLM2; GPTBigCodeConfig.
    """
    values = config.values
    if config.model_type in ("falcon", "RefinedWeb", "RefinedWebModel"):
        grouped = values.get("new_decoder_architecture") or config.model_type == "RefinedWeb"
        if not grouped:
            return (1,) * len(heads) if config.find("multi_query") in (True, None) else heads
        return None
    if config.model_type == "gpt_bigcode":
        return heads if config.find("multi_query") is False else (1,) * len(heads)
    if values.get("multi_query_attention") is True:
        return _each(config, "multi_query_group_num", values.get("multi_query_group_num", 1), len(heads), lowest=1)
    return None


def _kv_heads_of_block(block: object, heads: int) -> int:
    attention = block.get("attention") if isinstance(block, dict) else None
    group = attention.get("n_heads_in_group") if isinstance(attention, dict) else None
    return heads // group if type(group) is int and group > 0 else 0


def _is_latent(config: Config) -> bool:
    return bool(config.whole("kv_lora_rank")) and bool(config.whole("qk_rope_head_dim"))


def _head_lengths(config: Config, width: int, heads: int) -> tuple[int, int]:
    if _is_latent(config):
        return (config.whole("kv_lora_rank") or 0) + (config.whole("qk_rope_head_dim") or 0), 0
    key = config.whole("head_dim", highest=2**16)
    if not key:
        key = width // heads
        if not key:
            raise ModelFileError(f"{config.path}: {heads} attention heads are too many for a width of {width}")
    value = config.check_whole("v_head_dim", config.values.get("v_head_dim"), highest=2**16)
    return key, value or key


def _lengths_by_kind(config: Config, key: int, value: int) -> tuple[int, int, int, int]:
    """Return key and value length of full layers, then of layers with a window."""
    wide = config.check_whole("global_head_dim", config.values.get("global_head_dim"), highest=2**16)
    if wide:
        return wide, wide, key, value
    narrow = config.check_whole("swa_head_dim", config.values.get("swa_head_dim"), highest=2**16)
    narrow_value = config.check_whole("swa_v_head_dim", config.values.get("swa_v_head_dim"), highest=2**16)
    return key, value, narrow or key, narrow_value or (value if narrow in (None, key) else narrow)


def _layer_kinds(config: Config, layers: int) -> tuple[str, ...]:
    if config.model_type in _STATE_TYPES:
        return (_STATE,) * layers
    for reader in (_listed_kinds, _hybrid_kinds, _window_kinds):
        found = reader(config, layers)
        if found is not None:
            return found
    if config.period:
        return tuple(_kind_of_name(config.period[index % len(config.period)]) for index in range(layers))
    # A window that the file states without saying for which layers is for all (Mistral, Phi-3, StarCoder2).
    window = config.values.get("sliding_window", config.defaults.get("sliding_window"))
    return (_WINDOW if window else _FULL,) * layers


def _listed_kinds(config: Config, layers: int) -> tuple[str, ...] | None:
    values = config.values
    for key, kinds in _LISTS.items():
        listed = values.get(key)
        if not isinstance(listed, list | str) or not listed:
            continue
        if key in ("block_types", "sliding_window_pattern"):  # one period of it
            listed = [listed[index % len(listed)] for index in range(layers)]
        if len(listed) < layers:
            raise ModelFileError(f"{config.path}: {key} lists {len(listed)} layers of {layers}")
        return tuple(kinds(entry) for entry in listed[:layers])
    return None


def _kind_of_number(true_kind: str, false_kind: str) -> Callable[[object], str]:
    return lambda entry: true_kind if entry in (1, True) else false_kind


def _kind_of_name(entry: object) -> str:
    if not isinstance(entry, str):
        return _FULL
    return _KINDS.get(entry, _WINDOW if "sliding" in entry else _FULL)


_LISTS: Mapping[str, Callable[[object], str]] = {
    "layer_types": _kind_of_name,
    "layers_block_type": _kind_of_name,
    "attention_layers": _kind_of_name,  # GPT-Neo
    "block_types": lambda entry: _STATE if entry == "recurrent" else _WINDOW,  # RecurrentGemma
    "hybrid_override_pattern": lambda entry: _FULL if entry == "*" else _STATE,  # Nemotron-H
    "attn_type_list": _kind_of_number(_FULL, _STATE),  # MiniMax
    "hybrid_layer_pattern": _kind_of_number(_WINDOW, _FULL),  # MiMo-V2
    "sliding_window_pattern": lambda entry: _WINDOW if entry == "L" else _FULL,  # EXAONE 4: "LLLG"
}


def _hybrid_kinds(config: Config, layers: int) -> tuple[str, ...] | None:
    """Return the kinds of models that name their few layers with attention."""
    values = config.values
    attending: set[Any] | None = None
    period = config.check_whole("attn_layer_period", values.get("attn_layer_period"), lowest=1)
    if period:  # Jamba
        offset = config.check_whole("attn_layer_offset", values.get("attn_layer_offset")) or 0
        attending = {index for index in range(layers) if index % period == offset % period}
    interval = config.check_whole("full_attention_interval", values.get("full_attention_interval"), lowest=1)
    if interval:  # Qwen3-Next
        attending = {index for index in range(layers) if (index + 1) % interval == 0}
    linear = config.part("linear_attn_config").get("full_attn_layers")
    if isinstance(linear, list):  # Kimi Linear counts from one
        attending = {entry - 1 for entry in linear if type(entry) is int}
    for key in ("attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids"):  # Bamba, LFM2, Zamba2
        if isinstance(values.get(key), list):
            attending = {entry for entry in values[key] if type(entry) is int}
    if attending is None:
        return None
    return tuple(_FULL if index in attending else _STATE for index in range(layers))


def _window_kinds(config: Config, layers: int) -> tuple[str, ...] | None:
    values = config.values
    if config.find("use_sliding_window") is False:
        return (_FULL,) * layers
    if config.is_stated("max_window_layers"):
        first = config.whole("max_window_layers") or 0
        return tuple(_WINDOW if index >= first else _FULL for index in range(layers))
    for key in ("sliding_window_pattern", "_sliding_window_pattern"):
        period = values.get(key)
        if period is not None and not isinstance(period, str | list):
            every = config.check_whole(key, period, lowest=1) or 1
            return tuple(_FULL if (index + 1) % every == 0 else _WINDOW for index in range(layers))
    return None
