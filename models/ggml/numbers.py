"""Read the numbers in front of a legacy file and refuse those that native code overflows on, divides by or dies of.

A layout that the file does not have turns up here most of the time: its heads do not divide its width, its file type
is a number that no recipe has.
"""

import math
import struct
from typing import Any

from llmrun.models.ggml.layouts import Layout
from llmrun.models.ggml.types import QUANTIZATION_FACTOR, WEIGHT_TYPES, GgmlShape
from llmrun.models.gguf.types import FILE_TYPE_NAMES
from llmrun.models.gguf.window import HeaderWindow, damaged

__all__ = ["read_shape"]

_MAX_WIDTH = 1 << 16
_MAX_HEADS = 1 << 10
_MAX_LAYERS = 512
_MAX_CONTEXT = 1 << 24
_MAX_VOCABULARY = 1 << 18  # four times the largest that such files have
_MAX_ELEMENTS = 2**31 - 1  # loaders count the elements of a tensor, and of the cache, in a signed 32-bit number
_LEAST_LLAMA_VOCABULARY = 259  # three control tokens and every byte, of which the tokenizer computes the number
_FALCON_END = 11  # Source: falcon_token_eos in models/ggml/libfalcon.cpp
_FLOATS = frozenset({"alibi", "clip"})
_MOST_FILE_TYPE = 18  # Q6_K; later recipes are of GGUF files


def read_shape(window: HeaderWindow, position: int, layout: Layout) -> tuple[GgmlShape, int]:
    """Read the hyper-parameters from `position` on.

    Returns:
        Them, and where the next byte is.

    Raises:
        ModelFileError: They are not those of this layout, or the file ends before they do.
    """
    window.section = "hyper-parameters"
    end = position + 4 * len(layout.fields)
    data = window.need(end)
    form = "<" + "".join("f" if name in _FLOATS else "i" for name in layout.fields)
    values: dict[str, Any] = dict(zip(layout.fields, struct.unpack_from(form, data, position), strict=True))
    shape = GgmlShape(**values)
    complaint = _bounds(shape) or _numbers_of(shape, layout) or _sizes(shape, layout)
    if complaint:
        raise damaged(window.path, complaint)
    if layout.counted:
        count = struct.unpack_from("<i", window.need(end + 4), end)[0]
        if count != shape.vocabulary:
            raise damaged(window.path, f"it announces {shape.vocabulary:,} tokens, and then {count:,}")
        end += 4
    return shape, end


def _bounds(shape: GgmlShape) -> str | None:
    limits = (
        ("tokens in its vocabulary", shape.vocabulary, _MAX_VOCABULARY),
        ("as its embedding length", shape.width, _MAX_WIDTH),
        ("attention heads", shape.heads, _MAX_HEADS),
        ("layers", shape.layers, _MAX_LAYERS),
    )
    for name, value, most in limits:
        if not 1 <= value <= most:
            return f"it would have {value:,} {name}, and 1 to {most:,} is possible"
    if shape.width % shape.heads:
        return f"its embedding length is {shape.width:,}, which {shape.heads:,} heads do not divide"
    return None


def _numbers_of(shape: GgmlShape, layout: Layout) -> str | None:
    """Check what only some layouts have."""
    head = shape.width // shape.heads
    fields = layout.fields
    if "context" in fields and not 1 <= shape.context <= _MAX_CONTEXT:
        return f"its context length is {shape.context:,}, and 1 to {_MAX_CONTEXT:,} is possible"
    if "rope" in fields and (not 1 <= shape.rope <= head or shape.rope % 2):
        return f"it would rotate {shape.rope:,} of the {head:,} dimensions of a head"
    if "multiple" in fields and not 1 <= shape.multiple <= _MAX_WIDTH:
        return f"its feed-forward length would be a multiple of {shape.multiple:,}"
    if "parallel" in fields and shape.parallel not in (0, 1):
        return f"its parallel residual is {shape.parallel:,}, and 0 or 1 is possible"
    if "alibi" in fields and not (math.isfinite(shape.alibi) and 0 < shape.alibi <= 1024):
        return f"its attention bias is {shape.alibi}"
    if "clip" in fields and not (math.isfinite(shape.clip) and shape.clip >= 0):
        return f"it would clip at {shape.clip}"
    return _falcon_numbers(shape, head) if "falcon" in fields else _file_type(shape, layout)


def _falcon_numbers(shape: GgmlShape, head: int) -> str | None:
    if not 1 <= shape.kv_heads <= shape.heads or shape.heads % shape.kv_heads or head % 2:
        return f"it would have {shape.kv_heads:,} heads for keys and values, and {shape.heads:,} for queries"
    if shape.falcon not in (7, 40):
        return f"it says that it is a falcon of {shape.falcon:,} billion, and 7 or 40 is possible"
    if not 0 <= shape.merges <= 4 * _MAX_VOCABULARY:
        return f"it announces {shape.merges:,} merges"
    if shape.vocabulary <= _FALCON_END:
        return f"it has {shape.vocabulary:,} tokens, and the end of a text would be number {_FALCON_END}"
    recipe = shape.file_type % QUANTIZATION_FACTOR
    return None if recipe in FILE_TYPE_NAMES else f"its file type is {shape.file_type:,}, which is none"


def _file_type(shape: GgmlShape, layout: Layout) -> str | None:
    version, recipe = divmod(shape.file_type, QUANTIZATION_FACTOR)
    if layout.mixed:
        if recipe > _MOST_FILE_TYPE or recipe not in FILE_TYPE_NAMES or version:
            return f"its file type is {shape.file_type:,}, which is none"
        if shape.vocabulary < _LEAST_LLAMA_VOCABULARY:
            return f"it has {shape.vocabulary:,} tokens, and {_LEAST_LLAMA_VOCABULARY} are the least"
        return None
    if recipe not in WEIGHT_TYPES or not 0 <= version <= 2:
        return f"its file type is {shape.file_type:,}, which is none"
    return None


def _sizes(shape: GgmlShape, layout: Layout) -> str | None:
    if shape.width * max(shape.vocabulary, 4 * shape.width) > _MAX_ELEMENTS:
        return "a matrix of it would have more weights than a loader counts"
    # The loader of mpt counts further, and makes the cache no larger than it is asked for.
    if shape.context and layout.model_types != ("mpt",):
        elements = shape.context * shape.layers * shape.width
        if elements > _MAX_ELEMENTS:
            return f"its cache would have {elements:,} elements, and {_MAX_ELEMENTS:,} is the most a loader counts"
    return None
