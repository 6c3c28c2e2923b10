"""What a legacy GGML file says of itself, once it was read and checked, and the numbers of the format.

Source: the loaders of ctransformers 0.2.27 (models/llms/*.cc, models/ggml/llama-ggml.cpp, models/ggml/libfalcon.cpp),
which are the only ones that still read these files, and ggml.h of July 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from llmrun.models.gguf.types import TENSOR_TYPES, TensorType

__all__ = [
    "LEGACY_TENSOR_TYPES",
    "QUANTIZATION_FACTOR",
    "WEIGHT_TYPES",
    "GgmlHeader",
    "GgmlShape",
    "GgmlTensorPlace",
    "GgmlVocabulary",
    "TypeSource",
]

QUANTIZATION_FACTOR = 1000
"""A file type is the recipe plus a thousand times the version of the block layouts (GGML_QNT_VERSION_FACTOR)."""

LEGACY_TENSOR_TYPES: Mapping[int, TensorType] = {
    number: kind for number, kind in TENSOR_TYPES.items() if number <= 14 and kind.name != "Q8_1"
}
"""Types that a weight of such a file can have, with the block layouts since June 2023, which are those of GGUF."""

WEIGHT_TYPES: Mapping[int, int] = {0: 0, 1: 1, 2: 2, 3: 3, 7: 8, 8: 6, 9: 7, 10: 10, 11: 11, 12: 12, 13: 13, 14: 14}
"""The one type that all matrices of a file have, by its file type; llama and falcon files may mix types."""


class TypeSource(StrEnum):
    """What told the model type of a file."""

    HEADER = "header"
    CATALOGUE = "catalogue"
    FILE_NAME = "file name"
    OPTION = "--model-type"
    ASSUMED = "assumed"


class GgmlTensorPlace(NamedTuple):
    """One tensor: `dimensions` are as stored, the length of a row first; `offset` counts from the start of the file."""

    name: str
    dimensions: tuple[int, ...]
    type_number: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgmlShape:
    """Hyper-parameters; 0 stands for what a model type does not have in its header.

    Attributes:
        vocabulary: Tokens.
        width: Of the residual stream.
        heads: Attention heads.
        kv_heads: Heads of keys and values; of a llama they are counted in its tensors.
        layers: Transformer blocks.
        context: Tokens that the model was trained for.
        feed_forward: Width of the feed-forward part; of a llama it is measured in its tensors.
        rope: Dimensions of a head that are rotated.
        multiple: What a llama's feed-forward width is rounded up to.
        parallel: Whether attention and feed-forward part stand side by side (gpt_neox).
        falcon: 7 or 40, of which falcons are built differently.
        alibi: Largest slope of the attention bias (mpt).
        clip: Limit that keys, queries and values are cut at (mpt); 0 for none.
        merges: How many merges are announced (falcon).
        file_type: As it stands in the file, with the version of the block layouts.
    """

    vocabulary: int
    width: int
    heads: int
    kv_heads: int = 0
    layers: int
    context: int = 0
    feed_forward: int = 0
    rope: int = 0
    multiple: int = 0
    parallel: int = 0
    falcon: int = 0
    alibi: float = 0.0
    clip: float = 0.0
    merges: int = 0
    file_type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgmlVocabulary:
    """Where the tokens stand: their texts are made only when they are asked for.

    Attributes:
        count: Tokens.
        offset: Where the first one begins.
        end: Where the first byte after the last one is.
        scored: Whether each is followed by a score.
        checkpoints: Where tokens 0, 256, 512, … begin.
    """

    count: int
    offset: int
    end: int
    scored: bool
    checkpoints: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgmlHeader:
    """Everything about a file but its weights; the whole of it was checked, to the last byte.

    Attributes:
        path: The file.
        magic: `ggml`, `ggmf`, `ggjt` or `ggcc`.
        version: Of the container; 0 for `ggml`, which has none.
        model_type: As ctransformers calls it: `llama`, `gpt2`, …
        type_source: What told it.
        shape: Its hyper-parameters.
        vocabulary: Where the tokens are.
        special: Ids of tokens that are known by their text: `<|endoftext|>`, by that text.
        tensors: In file order.
        size_bytes: Of the file.
        warnings: What was odd but not fatal.
    """

    path: Path
    magic: str
    version: int
    model_type: str
    type_source: TypeSource
    shape: GgmlShape
    vocabulary: GgmlVocabulary
    special: Mapping[str, int]
    tensors: tuple[GgmlTensorPlace, ...]
    size_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def format_name(self) -> str:
        """The container as people call it: `ggjt v3`."""
        return f"{self.magic} v{self.version}" if self.version else self.magic
