"""Refuse the numbers in a GGUF header that native code would abort on, divide by, or loop over.

The rules are the assertions of llama_model_base::load_hparams (llama.cpp, src/llama-model.cpp): there they end the
process with SIGABRT and no word to the user, here they end in one sentence with the key in it. Numbers that llama.cpp
refuses cleanly by itself are left to it.
"""

import math
from functools import cache
from pathlib import Path

from llmrun.errors import ModelFileError
from llmrun.models.gguf.layers import is_recurrent
from llmrun.models.gguf.types import GgufHeader
from llmrun.models.gguf.values import find_number, find_text, find_whole, find_whole_or_each, need_text, need_whole
from llmrun.models.gguf.window import damaged

__all__ = [
    "MAX_BLOCKS",
    "MAX_CONTEXT_TOKENS",
    "check_architecture",
    "check_embedding_table",
    "check_model",
    "known_architectures",
]

MAX_BLOCKS = 512  # Source: LLAMA_MAX_LAYERS (llama-hparams.h)
_MAX_EXPERTS = 1_024  # Source: LLAMA_MAX_EXPERTS (llama-hparams.h)
MAX_CONTEXT_TOKENS = 2**31 - 1  # the engine counts positions in a signed 32-bit number
_MAX_EMBEDDING = 1_048_576  # 64 times the widest published model
_MAX_HEADS = 65_536
# Source: LLAMA_ROPE_SCALING_TYPES (llama-model.cpp); anything else fails an assertion
_ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})
_OTHER_KINDS = {
    "adapter": "a LoRA adapter, which changes a model but is none",
    "mmproj": "a projector that adds images or sound to a model",
    "imatrix": "an importance matrix, which is made to quantize a model",
}
_EPSILON_KEYS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
_ONE_EXPERT_MEANS_NONE = frozenset({"hunyuan-dense", "hunyuan_vl"})


@cache
def known_architectures() -> frozenset[str]:
    """Return the architectures that llama.cpp has code for (the list ships as a data file)."""
    text = Path(__file__).with_name("architectures.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.split() if not line.startswith("#"))


def check_model(header: GgufHeader) -> None:
    """Check everything about a model but its vocabulary.

    Raises:
        ModelFileError: A key is missing, impossible, or contradicts another.
    """
    architecture = check_architecture(header)
    blocks = _between(header, f"{architecture}.block_count", 1, MAX_BLOCKS)
    _between(header, f"{architecture}.context_length", 1, MAX_CONTEXT_TOKENS)
    embedding = _between(header, f"{architecture}.embedding_length", 1, _MAX_EMBEDDING)
    _check_epsilons(header, architecture)
    _check_heads(header, architecture, blocks, embedding)
    _check_experts(header, architecture, blocks)
    ahead = find_whole(header, f"{architecture}.nextn_predict_layers") or 0
    if not 0 <= ahead <= blocks:
        raise damaged(header.path, f"{architecture}.nextn_predict_layers is {ahead:,} of {blocks} blocks")
    scaling = find_text(header, f"{architecture}.rope.scaling.type")
    if scaling is not None and scaling not in _ROPE_SCALINGS:
        raise ModelFileError(
            f"{header.path}: {architecture}.rope.scaling.type is {scaling!r}, and no engine knows it",
            fix="take another GGUF of this model",
        )


def check_architecture(header: GgufHeader) -> str:
    """Return the architecture's name.

    Raises:
        ModelFileError: It is missing or unknown, or the file is something other than a language model.
    """
    kind = find_text(header, "general.type") or "model"
    if kind in _OTHER_KINDS:
        raise ModelFileError(
            f"{header.path} is {_OTHER_KINDS[kind]}", fix="name the model's own .gguf file (without mmproj in its name)"
        )
    architecture = need_text(header, "general.architecture")
    if architecture == "clip":
        raise ModelFileError(f"{header.path} is {_OTHER_KINDS['mmproj']}", fix="name the model's own .gguf file")
    if architecture not in known_architectures():
        from difflib import get_close_matches

        close = get_close_matches(architecture[:64], known_architectures(), n=1)
        hint = f" (the nearest known one is {close[0]})" if close else ""
        raise ModelFileError(
            f"{header.path} is of the architecture {architecture[:64]!r}, which llama.cpp does not know{hint}",
            fix="update llmrun and its engine (llmrun install llama-cpp), or take another model",
        )
    return architecture


def _between(header: GgufHeader, key: str, least: int, most: int) -> int:
    value = need_whole(header, key)
    if not least <= value <= most:
        raise damaged(header.path, f"{key} is {value:,}, and must be {least:,} to {most:,}")
    return value


def _check_epsilons(header: GgufHeader, architecture: str) -> None:
    found = False
    for name in _EPSILON_KEYS:
        key = f"{architecture}.attention.{name}"
        value = find_number(header, key)
        if value is None:
            continue
        found = True
        if not math.isfinite(value) or value <= 0:
            raise damaged(header.path, f"{key} is {value}, and must be a small positive number")
    if not found and not is_recurrent(architecture):
        need_text(header, f"{architecture}.attention.{_EPSILON_KEYS[0]}")


def _check_heads(header: GgufHeader, architecture: str, blocks: int, embedding: int) -> None:
    key = f"{architecture}.attention.head_count"
    heads = find_whole_or_each(header, key, blocks)
    if heads is None:
        if is_recurrent(architecture):
            return
        need_whole(header, key)
        return
    kv_key = f"{key}_kv"
    kv_heads = find_whole_or_each(header, kv_key, blocks) or heads
    if not all(0 <= count <= _MAX_HEADS for count in (*heads, *kv_heads)):
        raise damaged(header.path, f"{key} or {kv_key} is not between 0 and {_MAX_HEADS:,}")
    if not any(heads) and not is_recurrent(architecture):
        raise damaged(header.path, f"{key} is 0")
    for count, kv_count in zip(heads, kv_heads, strict=True):
        if count and kv_count and (kv_count > count or count % kv_count):
            raise damaged(header.path, f"{kv_key} is {kv_count:,}, which does not divide the {count:,} heads")
    _check_head_lengths(header, architecture, max(heads), embedding)


def _check_head_lengths(header: GgufHeader, architecture: str, heads: int, embedding: int) -> None:
    for name in ("key_length", "value_length"):
        key = f"{architecture}.attention.{name}"
        length = find_whole(header, key)
        if length is None and heads > embedding:
            raise damaged(
                header.path,
                f"{architecture}.attention.head_count is {heads:,}, more than the embedding length {embedding:,}",
            )
        if length is not None and not 0 <= length <= _MAX_EMBEDDING:
            raise damaged(header.path, f"{key} is {length:,}")


def _check_experts(header: GgufHeader, architecture: str, blocks: int) -> None:
    experts = find_whole(header, f"{architecture}.expert_count") or 0
    used = max(find_whole_or_each(header, f"{architecture}.expert_used_count", blocks) or (0,))
    if experts <= 1 and architecture in _ONE_EXPERT_MEANS_NONE:
        return
    if not 0 <= experts <= _MAX_EXPERTS:
        raise damaged(header.path, f"{architecture}.expert_count is {experts:,}, and must be 0 to {_MAX_EXPERTS:,}")
    if not 0 <= used <= experts or (experts > 0 and used == 0):
        raise damaged(header.path, f"{architecture}.expert_used_count is {used:,} of {experts:,} experts")
    groups = find_whole(header, f"{architecture}.expert_group_count") or 0
    groups_used = find_whole(header, f"{architecture}.expert_group_used_count") or 0
    sound = groups == 0 if experts == 0 else 0 <= groups < experts
    if groups > 1:
        sound = sound and experts % groups == 0 and 0 < groups_used < groups
    if not sound:
        raise damaged(
            header.path,
            f"{architecture}.expert_group_count is {groups:,} (used: {groups_used:,}) for {experts:,} experts",
        )


def check_embedding_table(header: GgufHeader, vocabulary_size: int) -> None:
    """Check that the model's input table has one row for each token.

    Raises:
        ModelFileError: It has not.
    """
    architecture = header.metadata.get("general.architecture")
    embedding = header.metadata.get(f"{architecture}.embedding_length")
    for tensor in header.tensors:
        if tensor.name != "token_embd.weight":
            continue
        if len(tensor.dimensions) == 2 and tensor.dimensions[0] == embedding:
            rows = tensor.dimensions[1]
            if rows != vocabulary_size:
                raise damaged(
                    header.path, f"its vocabulary has {vocabulary_size:,} tokens, and its embedding table {rows:,} rows"
                )
        return
