"""Read a legacy GGML file without native code: what a model is, before anything that can crash sees it.

The formats before GGUF say little and native readers believe all of it: ctransformers dies of a length that is too
large, and does not notice that half of the weights are missing. This reader has a limit for everything, tries every
layout that the magic allows, and keeps the one that explains the file to its last byte; the weights are stepped over.
When none does, the error is that of the layout that came furthest.

It refuses what no engine reads any more: a llama without scores, blocks quantized as they were before June 2023.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.errors import ModelFileError
from llmrun.models.ggml.kind import MARKS, choose_type, normal_type
from llmrun.models.ggml.layouts import LAYOUTS, Layout
from llmrun.models.ggml.numbers import read_shape
from llmrun.models.ggml.tensors import FIRST_TENSOR, TENSORS, TensorRules, read_tensors
from llmrun.models.ggml.types import (
    LEGACY_TENSOR_TYPES,
    QUANTIZATION_FACTOR,
    WEIGHT_TYPES,
    GgmlHeader,
    GgmlShape,
    GgmlTensorPlace,
    GgmlVocabulary,
)
from llmrun.models.ggml.vocabulary import find_token, skip_merges, skip_tokens
from llmrun.models.gguf.window import HeaderWindow, RangeReader, damaged, descriptor_reader
from llmrun.models.sniff import FileKind, identify, open_regular

__all__ = ["read_ggml_header"]

_MAGICS = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt", b"ccgg": "ggcc"}
_VERSIONS: Mapping[str, tuple[int, ...]] = {"ggmf": (1,), "ggjt": (1, 2, 3), "ggcc": (10,)}
_UNQUANTIZED = frozenset({0, 1})
_Q5 = frozenset({6, 7})
_SINCE_MAY, _SINCE_JUNE = ("ggjt", 2), frozenset({("ggjt", 3), ("ggcc", 10)})
_SECTIONS = ("header", "hyper-parameters", "vocabulary", "merges", FIRST_TENSOR, TENSORS)
_KEPT_TOKENS = (b"<|endoftext|>", b"<|end|>", b"<s>", b"</s>")
_OLD = "a GGUF of the model, or a file with ggmlv3 in its name"


@dataclass(frozen=True, slots=True)
class _File:
    """An open file: what was read of it, and how to read on."""

    window: HeaderWindow
    read: RangeReader
    magic: str
    version: int


@dataclass(frozen=True, slots=True)
class _Parsed:
    layout: Layout
    shape: GgmlShape
    vocabulary: GgmlVocabulary
    tensors: tuple[GgmlTensorPlace, ...]


def read_ggml_header(path: Path, *, family: str | None = None, model_type: str | None = None) -> GgmlHeader:
    """Read and check a legacy file.

    Args:
        path: The file.
        family: Of the catalogue; tells the model type where the file does not.
        model_type: What the user says that it is, as ctransformers calls it, in any spelling.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: It is no legacy file, is damaged or incomplete, or no engine reads it any more.
        UsageError: There is no such model type.
    """
    asked = normal_type(model_type) if model_type else None
    descriptor, size_bytes = open_regular(path)
    try:
        read = descriptor_reader(path, descriptor)
        file = _begin(HeaderWindow(path, size_bytes, read), read)
        parsed = _find_layout(file, asked)
    finally:
        os.close(descriptor)
    data = file.window.data
    marks = {
        name: found
        for name, texts in MARKS.items()
        if (found := next((n for text in texts if (n := find_token(data, parsed.vocabulary, text)) is not None), None))
        is not None
    }
    choice = choose_type(path, parsed.layout.model_types, marks, family=family, asked=asked)
    special = {text.decode(): find_token(data, parsed.vocabulary, text) for text in _KEPT_TOKENS}
    return GgmlHeader(
        path=path,
        magic=file.magic,
        version=file.version,
        model_type=choice.model_type,
        type_source=choice.source,
        shape=parsed.shape,
        vocabulary=parsed.vocabulary,
        special={text: index for text, index in special.items() if index is not None},
        tensors=parsed.tensors,
        size_bytes=size_bytes,
        warnings=choice.warnings,
    )


def _begin(window: HeaderWindow, read: RangeReader) -> _File:
    """Look at the magic and the version."""
    beginning = window.need(min(512, window.size_bytes))
    magic = _MAGICS.get(beginning[:4])
    if magic is None:
        found = identify(beginning[:512], window.size_bytes)
        adapter = found.kind is FileKind.GGML
        what = "a LoRA adapter (ggla), which changes a model but is none" if adapter else found.description
        raise ModelFileError(f"{window.path} is {what}, not a legacy GGML model", fix=None if adapter else found.fix)
    if magic not in _VERSIONS:
        return _File(window, read, magic, 0)
    version = int.from_bytes(window.need(8)[4:8], "little")
    if version not in _VERSIONS[magic]:
        known = ", ".join(str(number) for number in _VERSIONS[magic])
        raise damaged(window.path, f"it is {magic} of version {version:,}, and there are only: {known}")
    return _File(window, read, magic, version)


def _find_layout(file: _File, asked: str | None) -> _Parsed:
    """Try the layouts in turn; when none explains the file, raise the error of the one that came furthest."""
    furthest: tuple[int, ModelFileError] | None = None
    layouts = [layout for layout in LAYOUTS if file.magic in layout.magics]
    layouts.sort(key=lambda layout: asked not in layout.model_types)
    for layout in layouts:
        try:
            return _parse(file, layout)
        except ModelFileError as found:
            reached = _SECTIONS.index(file.window.section)
            if furthest is None or reached > furthest[0]:
                furthest = (reached, found)
    if furthest is None:
        raise AssertionError("every magic has a layout")
    reached, error = furthest
    if reached <= _SECTIONS.index("hyper-parameters") and "incomplete" not in error.message and asked is None:
        raise damaged(file.window.path, "the numbers that it begins with are those of no known model type") from error
    raise error


def _parse(file: _File, layout: Layout) -> _Parsed:
    window = file.window
    window.section = "header"
    shape, position = read_shape(window, 8 if file.version else 4, layout)
    scored = file.magic in layout.scored
    vocabulary = skip_tokens(window, position, shape.vocabulary, scored=scored, utf8=layout.model_types == ("mpt",))
    position = vocabulary.end
    if "merges" in layout.fields:
        position = skip_merges(window, position, shape.merges)
    wanted = dict(layout.tensors(shape))
    aligned = file.magic in ("ggjt", "ggcc")
    types = _allowed_types(file, layout, shape)
    rules = TensorRules(wanted, layout.model_types, types, aligned, layout.mixed)
    try:
        tensors = read_tensors(window, file.read, position, rules)
    except ModelFileError as error:
        if window.section == TENSORS and _is_old(file, layout, shape) and "incomplete" not in error.message:
            raise _too_old(window.path) from error
        raise
    if _is_old(file, layout, shape) and WEIGHT_TYPES[shape.file_type % QUANTIZATION_FACTOR] in _Q5:
        raise _too_old(window.path)
    if layout.model_types == ("llama",):
        shape = _settle_llama(window.path, shape, tensors)
        if not file.version:
            raise ModelFileError(f"{window.path} is a llama from before March 2023, and no engine reads it", fix=_OLD)
    elif layout.model_types != ("falcon",):
        shape = replace(shape, kv_heads=shape.heads, feed_forward=4 * shape.width)
    else:
        shape = replace(shape, feed_forward=4 * shape.width)
    return _Parsed(layout, shape, vocabulary, tensors)


def _allowed_types(file: _File, layout: Layout, shape: GgmlShape) -> frozenset[int]:
    """Return the numbers of the types that matrices may have."""
    recipe = shape.file_type % QUANTIZATION_FACTOR
    if not layout.mixed:
        return frozenset({WEIGHT_TYPES[recipe]})
    container = (file.magic, file.version)
    if container in _SINCE_JUNE:
        return frozenset(LEGACY_TENSOR_TYPES)
    # The blocks of Q4_0, Q4_1 and Q8_0 were other ones until June 2023, those of Q5_0 and Q5_1 until May.
    allowed = _UNQUANTIZED | _Q5 if container == _SINCE_MAY else _UNQUANTIZED
    if WEIGHT_TYPES.get(recipe) not in allowed:
        file.window.section = FIRST_TENSOR
        raise _too_old(file.window.path)
    return allowed


def _is_old(file: _File, layout: Layout, shape: GgmlShape) -> bool:
    """Whether an unversioned file says that its blocks are of an earlier layout than the second."""
    version, recipe = divmod(shape.file_type, QUANTIZATION_FACTOR)
    return not layout.mixed and version < 2 and WEIGHT_TYPES[recipe] not in _UNQUANTIZED and not file.version


def _too_old(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path} was quantized before June 2023, and no engine reads its blocks any more", fix=f"take {_OLD}"
    )


def _settle_llama(path: Path, shape: GgmlShape, tensors: tuple[GgmlTensorPlace, ...]) -> GgmlShape:
    """Find the two lengths of a llama that are not among its numbers, and check that they are the same everywhere."""
    keys, widths = set(), set()
    for tensor in tensors:
        if tensor.name.endswith((".wk.weight", ".wv.weight")):
            keys.add(tensor.dimensions[1])
        elif tensor.name.endswith((".w1.weight", ".w3.weight")):
            widths.add(tensor.dimensions[1])
        elif tensor.name.endswith(".w2.weight"):
            widths.add(tensor.dimensions[0])
    head = shape.width // shape.heads
    kv_heads, rest = divmod(max(keys), head)
    if len(keys) > 1 or rest or not kv_heads or shape.heads % kv_heads:
        raise damaged(path, f"its keys and values are {max(keys):,} wide, which does not fit {shape.heads:,} heads")
    if len(widths) > 1 or max(widths) not in _feed_forward(shape):
        raise damaged(path, f"its feed-forward part is {max(widths):,} wide, and must be {_feed_forward(shape)[0]:,}")
    return replace(shape, kv_heads=kv_heads, feed_forward=max(widths))


def _feed_forward(shape: GgmlShape) -> tuple[int, int]:
    """Return the widths that loaders compute: two thirds of four widths, rounded up; of a 70B 1.3 times as much.

    Source: llama_model_load_internal in llama-ggml.cpp of ctransformers 0.2.27.
    """
    raw = 2 * (4 * shape.width) // 3
    return _rounded_up(raw, shape.multiple), _rounded_up(int(1.3 * raw), shape.multiple)


def _rounded_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
