"""Malformed legacy files: every section cut short, every number made absurd, every tensor spoiled.

Each case is wrong for certain, so a reader that accepts one has a hole. The numbers are found by walking through a
sound file with the layout written out here once more.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import legacy_models as legacy

__all__ = ["Case", "cases", "flipped"]

SMALL = {name: replace(model, layers=1) for name, model in legacy.ALL.items()}
FREE = {"parallel": (0, 1), "clip": (0,)}  # values that these fields may have
FIELDS = {
    "llama": ("vocabulary", "width", "multiple", "heads", "layers", "rope", "file_type"),
    "falcon": ("vocabulary", "width", "heads", "kv_heads", "layers", "falcon", "file_type", "merges"),
    "gpt2": ("vocabulary", "context", "width", "heads", "layers", "file_type", "count"),
    "starcoder": ("vocabulary", "context", "width", "heads", "layers", "file_type", "count"),
    "gptj": ("vocabulary", "context", "width", "heads", "layers", "rope", "file_type", "count"),
    "gpt_neox": ("vocabulary", "context", "width", "heads", "layers", "rope", "parallel", "file_type"),
    "dolly-v2": ("vocabulary", "context", "width", "heads", "layers", "rope", "parallel", "file_type"),
    "mpt": ("width", "context", "heads", "layers", "vocabulary", "alibi", "clip", "file_type"),
    "replit": ("width", "context", "heads", "layers", "vocabulary", "file_type"),
}
NUMBERS = {"zero": 0, "minus-one": 0xFFFFFFFF, "2^30": 1 << 30, "2^31-1": (1 << 31) - 1, "2^31": 1 << 31}
LENGTHS = {"5000": 5000, "2^20": 1 << 20, "2^31-1": (1 << 31) - 1, "2^32-1": (1 << 32) - 1}
FLOATS = {"nan": float("nan"), "inf": float("inf"), "negative": -1.0}


class Case(NamedTuple):
    """A file, and a name that says what is wrong with it."""

    name: str
    data: bytes


class Place(NamedTuple):
    """Where a tensor begins, where its data do, and where they end."""

    start: int
    data: int
    end: int


def cases() -> Iterator[Case]:
    """Yield some hundred files; the same ones every time."""
    for name, model in SMALL.items():
        data = legacy.write(model)
        for case in (*_numbers(model, data), *_tokens(model, data), *_tensors(model, data), *_cut(model, data)):
            yield Case(f"{name}: {case.name}", case.data)
        yield from (Case(f"{name}: {case.name}", case.data) for case in _ends(data))
        yield from (Case(f"{name}: {case.name}", case.data) for case in _dropped(model))
    for name in ("llama-ggjt-3", "gpt2", "falcon-ggcc-10", "llama-ggmf-1"):
        yield from (Case(f"{name}: {case.name}", case.data) for case in _magics(legacy.write(SMALL[name])))


def flipped(data: bytes, place: int, bit: int) -> bytes:
    """Return the file with one bit turned over."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def _put(data: bytes, place: int, number: int) -> bytes:
    return data[:place] + struct.pack("<I", number) + data[place + 4 :]


def _start(model: legacy.Legacy) -> int:
    return 4 if model.magic == "ggml" else 8


def _numbers(model: legacy.Legacy, data: bytes) -> Iterator[Case]:
    for index, field in enumerate(FIELDS[model.model_type]):
        place = _start(model) + 4 * index
        if field in ("alibi", "clip"):
            for name, value in FLOATS.items():
                yield Case(f"{field} {name}", data[:place] + struct.pack("<f", value) + data[place + 4 :])
            continue
        for name, number in NUMBERS.items():
            if number not in FREE.get(field, ()) and not (field == "file_type" and number == 0):
                yield Case(f"{field} {name}", _put(data, place, number))
        now = struct.unpack_from("<I", data, place)[0]
        if field in ("vocabulary", "width", "layers", "count", "merges"):
            yield Case(f"{field} one more", _put(data, place, now + 1))
            yield Case(f"{field} one less", _put(data, place, now - 1))
        if field == "file_type":
            yield Case("file type 99", _put(data, place, 99))
            yield Case("file type of another matrix", _put(data, place, 999_999))


def _vocabulary(model: legacy.Legacy) -> tuple[int, int]:
    """Return where the vocabulary begins and ends."""
    begin = _start(model) + 4 * len(FIELDS[model.model_type])
    scored = model.magic != "ggml" or model.model_type == "replit"
    return begin, begin + sum(4 + len(token) + (4 if scored else 0) for token in model.tokens)


def _tokens(model: legacy.Legacy, data: bytes) -> Iterator[Case]:
    begin, _ = _vocabulary(model)
    for name, length in LENGTHS.items():
        yield Case(f"first token of {name} bytes", _put(data, begin, length))
    if model.model_type == "mpt":
        yield Case("token that is not UTF-8", data[: begin + 4] + b"\xff" + data[begin + 5 :])


def _places(model: legacy.Legacy, data: bytes) -> list[Place]:
    """Walk from tensor to tensor."""
    position = _vocabulary(model)[1]
    if model.magic == "ggcc":
        position += 4 + 2 * 2 * 5  # two merges of two parts of one byte
    places = []
    while position < len(data):
        count, length, kind = struct.unpack_from("<3I", data, position)
        shape = struct.unpack_from(f"<{count}I", data, position + 12)
        begin = position + 12 + 4 * count + length
        if model.magic in ("ggjt", "ggcc"):
            begin += -begin % 32
        elements = shape[0] * (shape[1] if count == 2 else 1)
        size = {0: 4 * elements, 1: 2 * elements, 2: elements // 32 * 18, 8: elements // 32 * 34}[kind]
        places.append(Place(position, begin, begin + size))
        position = begin + size
    return places


def _tensors(model: legacy.Legacy, data: bytes) -> Iterator[Case]:
    places = _places(model, data)
    for which, place in (("first", places[0]), ("last", places[-1])):
        start = place.start
        for name, number in {"0": 0, "3": 3, "2^31": 1 << 31, "2^32-1": (1 << 32) - 1}.items():
            yield Case(f"{which} tensor of {name} dimensions", _put(data, start, number))
        for name, number in {"0": 0, "1000": 1000, "2^31": 1 << 31, "2^32-1": (1 << 32) - 1}.items():
            yield Case(f"{which} tensor with a name of {name} bytes", _put(data, start + 4, number))
        for name, number in {"4": 4, "9": 9, "30": 30, "2^31": 1 << 31}.items():
            yield Case(f"{which} tensor of type {name}", _put(data, start + 8, number))
        for name, number in {"0": 0, "2^30": 1 << 30, "2^31": 1 << 31, "2^32-1": (1 << 32) - 1}.items():
            yield Case(f"{which} tensor with rows of {name}", _put(data, start + 12, number))
        count = struct.unpack_from("<I", data, start)[0]
        name_at = start + 12 + 4 * count
        yield Case(f"{which} tensor of another name", data[:name_at] + b"X" + data[name_at + 1 :])
    again = data[places[-1].start : places[-1].end]
    if len(data) % 32 == places[-1].start % 32 or model.magic not in ("ggjt", "ggcc"):
        yield Case("last tensor twice", data + again)


def _cut(model: legacy.Legacy, data: bytes) -> Iterator[Case]:
    """Cut at, before and after every border."""
    borders = [*range(4, _vocabulary(model)[0] + 1, 4), *_vocabulary(model)]
    for place in _places(model, data):
        borders += [
            place.start,
            place.start + 4,
            place.start + 12,
            place.data,
            (place.data + place.end) // 2,
            place.end,
        ]
    ends = {end for border in borders for end in (border - 1, border, border + 1)}
    for end in sorted(end for end in ends if 0 <= end < len(data)):
        yield Case(f"cut to {end} bytes", data[:end])


def _ends(data: bytes) -> Iterator[Case]:
    for extra in (1, 11, 12, 300):
        yield Case(f"{extra} zero bytes behind it", data + bytes(extra))
    yield Case("text behind it", data + b"Not Found\n" * 20)


def _dropped(model: legacy.Legacy) -> Iterator[Case]:
    names = {
        "llama": ("norm.weight", "output.weight", "layers.0.attention.wk.weight", "layers.0.feed_forward.w2.weight"),
        "falcon": ("lm_head.weight", "transformer.h.0.input_layernorm.bias"),
        "gpt2": ("model/wte", "model/wpe", "model/h0/mlp/c_fc/b"),
        "starcoder": ("model/wte", "model/ln_f/b"),
        "gptj": ("lm_head.bias", "transformer.h.0.attn.v_proj.weight"),
        "gpt_neox": ("embed_out.weight", "gpt_neox.layers.0.attention.dense.bias"),
        "dolly-v2": ("gpt_neox.embed_in.weight", "gpt_neox.layers.0.mlp.dense_4h_to_h.weight"),
        "mpt": ("transformer.norm_f.weight", "transformer.blocks.0.ffn.down_proj.weight"),
        "replit": ("transformer.wte.weight", "transformer.blocks.0.norm_2.weight"),
    }
    for name in names[model.model_type]:
        yield Case(f"without {name}", legacy.write(replace(model, drop=name)))


def _magics(data: bytes) -> Iterator[Case]:
    for place in range(4):
        for bit in range(8):
            yield Case(f"magic with bit {bit} of byte {place} turned over", flipped(data, place, bit))
    yield Case("magic of a LoRA adapter", b"algg" + data[4:])
    if data[:4] != b"lmgg":
        for version in (0, 4, 9, 11, 255, 1 << 24, (1 << 32) - 1):
            yield Case(f"version {version}", _put(data, 4, version))
