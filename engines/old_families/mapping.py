"""Recognise InternLM, InternLM2, Baichuan and Baichuan2 by config.json: `find_mapping`.

What each is, as LLaMA:

- InternLM: biases on the four projections of attention, where its `bias` says so.
- InternLM2: query, key and value in one tensor, group by group; other names.
- Baichuan: query, key and value in one tensor, one after the other.
- Baichuan2: and the rows of the output layer are divided by their length, which is done once, while loading.
- Baichuan-13B, Baichuan2-13B: and ALiBi instead of rotary positions (`alibi`).

Refused by returning None: anything else, and what is quantized already, because packed integers cannot be taken apart.

Source: modeling_internlm.py of internlm/internlm-20b, modeling_internlm2.py of internlm/internlm2-7b,
modeling_baichuan.py of baichuan-inc/Baichuan2-7B-Base and Baichuan-13B-Base. Which Baichuan has which positions and
which head: their config.json files, and baichuan.py of vLLM 0.23.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from llmrun.errors import ModelFileError
from llmrun.models.huggingface.folder import LocalFolder
from llmrun.models.huggingface.json import find_json

__all__ = ["MAPPED_ARCHITECTURES", "FamilyMapping", "Packing", "find_mapping", "map_config"]

_NORMALISED_VOCABULARY = 125_696
_PLAIN_CONTEXT = 2_048  # what the configuration classes of these families have where a file says nothing
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")


class Packing(StrEnum):
    """How a family stores its layers."""

    PLAIN = "plain"
    """As LLaMA does."""
    STACKED = "stacked"
    """`W_pack`: all queries, all keys, all values."""
    GROUPED = "grouped"
    """`wqkv`: for each key head its queries, the key, the value."""


MAPPED_ARCHITECTURES: Mapping[str, Packing] = {
    "InternLMForCausalLM": Packing.PLAIN,
    "InternLM2ForCausalLM": Packing.GROUPED,
    "BaiChuanForCausalLM": Packing.STACKED,
    "BaichuanForCausalLM": Packing.STACKED,
}
"""Class names in config.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyMapping:
    """One model of an old family, as LLaMA.

    Attributes:
        architecture: Its own class name.
        packing: How its layers are stored.
        config: config.json of the LLaMA that it is.
        alibi: Positions are a bias on the attention; rotary positions must be left out.
        normalised_head: The rows of the output layer have to be divided by their length.
    """

    architecture: str
    packing: Packing
    config: Mapping[str, Any]
    alibi: bool
    normalised_head: bool

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return int(self.config["head_dim"])

    @property
    def query_heads(self) -> int:
        """Heads of the queries."""
        return int(self.config["num_attention_heads"])

    @property
    def key_heads(self) -> int:
        """Heads of the keys, and of the values."""
        return int(self.config["num_key_value_heads"])

    def tensor_names(self) -> frozenset[str]:
        """Return the names of all tensors that the LLaMA has."""
        biased = ("weight", "bias") if self.config["attention_bias"] else ("weight",)
        names = {"model.embed_tokens.weight", "model.norm.weight"}
        if not self.config["tie_word_embeddings"]:
            names.add("lm_head.weight")
        for layer in (f"model.layers.{index}." for index in range(self.layers)):
            names |= {f"{layer}self_attn.{each}_proj.{kind}" for each in "qkvo" for kind in biased}
            names |= {f"{layer}mlp.{each}_proj.weight" for each in ("gate", "up", "down")}
            names |= {f"{layer}{each}_layernorm.weight" for each in ("input", "post_attention")}
        return frozenset(names)


def find_mapping(folder: Path) -> FamilyMapping | None:
    """Return how to run a folder as LLaMA, or None when it is not of these families. Reads config.json alone.

    Raises:
        ModelFileError: config.json is damaged, or says what cannot be.
    """
    source = LocalFolder(folder)
    values = find_json(source, "config.json")
    return None if values is None else map_config(values, folder / "config.json")


def map_config(values: Mapping[str, Any], path: Path) -> FamilyMapping | None:
    """Return how a model with this config.json is run as LLaMA, or None; `path` is for messages.

    Raises:
        ModelFileError: It says what cannot be.
    """
    listed = values.get("architectures")
    architecture = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], str) else ""
    packing = MAPPED_ARCHITECTURES.get(architecture)
    if packing is None or values.get("quantization_config"):
        return None
    alibi = packing is Packing.STACKED and _has_alibi(architecture, values)
    return FamilyMapping(
        architecture=architecture,
        packing=packing,
        config=_llama_config(values, path, alibi=alibi),
        alibi=alibi,
        normalised_head=packing is Packing.STACKED and _has_normalised_head(values),
    )


def _has_alibi(architecture: str, values: Mapping[str, Any]) -> bool:
    """The 13B models say how long a text may be, and not how many positions they have: they have none."""
    return architecture == "BaichuanForCausalLM" and "max_position_embeddings" not in values


def _has_normalised_head(values: Mapping[str, Any]) -> bool:
    """The second generation has a larger vocabulary, and was trained with an option that the first did not have."""
    return values.get("vocab_size") == _NORMALISED_VOCABULARY or "z_loss_weight" in values


def _llama_config(values: Mapping[str, Any], path: Path, *, alibi: bool) -> dict[str, Any]:
    width, heads = _count(values, "hidden_size", path), _count(values, "num_attention_heads", path)
    kv_heads = heads if values.get("num_key_value_heads") is None else _count(values, "num_key_value_heads", path)
    if width % heads or heads % kv_heads:
        raise ModelFileError(f"{path}: {width} wide, {heads} heads and {kv_heads} key heads do not fit together")
    context = values.get("max_position_embeddings", values.get("model_max_length", _PLAIN_CONTEXT))
    return {key: values[key] for key in _KEPT if key in values} | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _count(values, "vocab_size", path),
        "hidden_size": width,
        "intermediate_size": _count(values, "intermediate_size", path),
        "num_hidden_layers": _count(values, "num_hidden_layers", path),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "hidden_act": str(values.get("hidden_act", "silu")),
        "max_position_embeddings": context if isinstance(context, int) else _PLAIN_CONTEXT,
        "rms_norm_eps": float(values.get("rms_norm_eps", 1e-6)),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4} if alibi else _rope(values),
        "tie_word_embeddings": values.get("tie_word_embeddings") is True,
        "attention_bias": values.get("bias") is True,
        "mlp_bias": False,
        "dtype": str(values.get("torch_dtype", values.get("dtype", "bfloat16"))),
    }


def _count(values: Mapping[str, Any], key: str, path: Path) -> int:
    value = values.get(key)
    if type(value) is not int or not 0 < value < 2**24:
        raise ModelFileError(f"{path}: {key} must be a number above 0, and is {str(value)[:60]}")
    return value


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary positions.

    InternLM's `rotary` object says `dynamic` without a factor, which within the trained context is no scaling at all.
    """
    rotary = values.get("rotary")
    base = rotary.get("base", 1e4) if isinstance(rotary, dict) else values.get("rope_theta", 1e4)
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": float(base)}
    scaling = values.get("rope_scaling")
    if isinstance(scaling, dict) and isinstance(scaling.get("factor"), int | float) and scaling["factor"] > 1:
        kind = scaling.get("rope_type", scaling.get("type"))
        found |= {"rope_type": str(kind), "factor": float(scaling["factor"])}
    return found
