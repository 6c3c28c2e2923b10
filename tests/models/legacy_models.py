"""Small random models of every type and container that legacy files have, written as the loaders want them.

The names and shapes are written out here once more, so that a mistake in the reader's own tables shows; that the
loaders of ctransformers take these files is tested with the real ones.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from llmrun.models.ggml_writer import GgmlTensor, write_legacy

WIDTH, HEADS, LAYERS, CONTEXT = 32, 2, 2, 64
BYTES = [bytes([byte]) for byte in range(256)]
TOKENS = [b"<unk>", b"<s>", b"</s>", *BYTES, b"<|endoftext|>", b" hello", b" world"]
TEXTS = [b"<|endoftext|>", *(chr(33 + number).encode() for number in range(300))]  # every one of them UTF-8
F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """A model to be written; `drop` leaves a tensor out, `tokens` replaces the vocabulary."""

    model_type: str
    magic: str = "ggml"
    version: int = 0
    file_type: int = 1
    tokens: tuple[bytes, ...] = tuple(TOKENS)
    drop: str | None = None
    kv_heads: int = HEADS
    width: int = WIDTH
    layers: int = LAYERS
    seed: int = 0

    @property
    def feed_forward(self) -> int:
        return -(-(2 * (4 * self.width) // 3) // 32) * 32


ALL = {
    "llama-ggjt-3": Legacy(model_type="llama", magic="ggjt", version=3),
    "llama-ggjt-3-q4_0": Legacy(model_type="llama", magic="ggjt", version=3, file_type=2),
    "llama-ggjt-3-q8_0": Legacy(model_type="llama", magic="ggjt", version=3, file_type=7),
    "llama-ggjt-2": Legacy(model_type="llama", magic="ggjt", version=2),
    "llama-ggjt-1": Legacy(model_type="llama", magic="ggjt", version=1, file_type=0),
    "llama-ggmf-1": Legacy(model_type="llama", magic="ggmf", version=1),
    "falcon-ggcc-10": Legacy(model_type="falcon", magic="ggcc", version=10, kv_heads=1),
    "gpt2": Legacy(model_type="gpt2"),
    "gpt2-q4_0": Legacy(model_type="gpt2", file_type=2002),
    "starcoder": Legacy(model_type="starcoder", tokens=(*TOKENS, b"<fim_prefix>")),
    "gptj": Legacy(model_type="gptj"),
    "gptj-q8_0": Legacy(model_type="gptj", file_type=2007),
    "gpt_neox": Legacy(model_type="gpt_neox"),
    "dolly-v2": Legacy(model_type="dolly-v2", tokens=(*TOKENS, b"### End", b"### Instruction:", b"### Response:")),
    "mpt": Legacy(model_type="mpt", tokens=tuple(TEXTS)),
    "replit": Legacy(model_type="replit"),
}
"""One of each that ctransformers reads without another file beside it."""


def write(model: Legacy) -> bytes:
    """Return the file."""
    noise = random.Random(model.seed)
    scored = model.magic != "ggml" or model.model_type == "replit"
    vocabulary = [(token, -float(index) if scored else None) for index, token in enumerate(model.tokens)]
    tensors = [
        _tensor(model, noise, name, shape) for name, shape in _TENSORS[model.model_type](model) if name != model.drop
    ]
    merges = [(b"h", b"e"), (b"l", b"l")] if model.magic == "ggcc" else None
    return write_legacy(model.magic, model.version, numbers(model), vocabulary, tensors, merges=merges)


def numbers(model: Legacy) -> tuple[int | float, ...]:
    """Return everything between the version and the vocabulary."""
    count, width, kind, layers = len(model.tokens), model.width, model.file_type, model.layers
    head = width // HEADS
    falcon = (count, width, HEADS, model.kv_heads, layers, 7, kind)
    return {
        "llama": (count, width, 32, HEADS, layers, head, kind),
        "falcon": (*falcon, 2) if model.magic == "ggcc" else falcon,
        "gpt2": (count, CONTEXT, width, HEADS, layers, kind, count),
        "starcoder": (count, CONTEXT, width, HEADS, layers, kind, count),
        "gptj": (count, CONTEXT, width, HEADS, layers, head, kind, count),
        "gpt_neox": (count, CONTEXT, width, HEADS, layers, head, 1, kind),
        "dolly-v2": (count, CONTEXT, width, HEADS, layers, head, 0, kind),
        "mpt": (width, CONTEXT, HEADS, layers, count, 8.0, 0.0, kind),
        "replit": (width, CONTEXT, HEADS, layers, count, kind),
    }[model.model_type]


_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _llama(model: Legacy) -> _Shapes:
    width, key = model.width, model.width // HEADS * model.kv_heads
    yield "tok_embeddings.weight", (width, len(model.tokens))
    yield "norm.weight", (width,)
    yield "output.weight", (width, len(model.tokens))
    for layer in range(model.layers):
        yield f"layers.{layer}.attention_norm.weight", (width,)
        yield f"layers.{layer}.ffn_norm.weight", (width,)
        for name, rows in (("wq", width), ("wk", key), ("wv", key), ("wo", width)):
            yield f"layers.{layer}.attention.{name}.weight", (width, rows)
        yield f"layers.{layer}.feed_forward.w1.weight", (width, model.feed_forward)
        yield f"layers.{layer}.feed_forward.w2.weight", (model.feed_forward, width)
        yield f"layers.{layer}.feed_forward.w3.weight", (width, model.feed_forward)


def _falcon(model: Legacy) -> _Shapes:
    width, head = model.width, model.width // HEADS
    yield "transformer.word_embeddings.weight", (width, len(model.tokens))
    yield "transformer.ln_f.weight", (width,)
    yield "transformer.ln_f.bias", (width,)
    yield "lm_head.weight", (width, len(model.tokens))
    for layer in range(model.layers):
        prefix = f"transformer.h.{layer}"
        yield f"{prefix}.input_layernorm.weight", (width,)
        yield f"{prefix}.input_layernorm.bias", (width,)
        yield f"{prefix}.self_attention.query_key_value.weight", (width, (2 * model.kv_heads + HEADS) * head)
        yield f"{prefix}.self_attention.dense.weight", (width, width)
        yield f"{prefix}.mlp.dense_h_to_4h.weight", (width, 4 * width)
        yield f"{prefix}.mlp.dense_4h_to_h.weight", (4 * width, width)


def _gpt2(model: Legacy) -> _Shapes:
    width = model.width
    yield "model/ln_f/g", (width,)
    yield "model/ln_f/b", (width,)
    yield "model/wte", (width, len(model.tokens))
    yield "model/wpe", (width, CONTEXT)
    for layer in range(model.layers):
        for norm in ("ln_1", "ln_2"):
            yield f"model/h{layer}/{norm}/g", (width,)
            yield f"model/h{layer}/{norm}/b", (width,)
        for name, columns, rows in (
            ("attn/c_attn", width, 3 * width),
            ("attn/c_proj", width, width),
            ("mlp/c_fc", width, 4 * width),
            ("mlp/c_proj", 4 * width, width),
        ):
            yield f"model/h{layer}/{name}/w", (columns, rows)
            yield f"model/h{layer}/{name}/b", (rows,)


def _gptj(model: Legacy) -> _Shapes:
    width, count = model.width, len(model.tokens)
    yield "transformer.wte.weight", (width, count)
    yield "transformer.ln_f.weight", (width,)
    yield "transformer.ln_f.bias", (width,)
    yield "lm_head.weight", (width, count)
    yield "lm_head.bias", (count,)
    for layer in range(model.layers):
        prefix = f"transformer.h.{layer}"
        yield f"{prefix}.ln_1.weight", (width,)
        yield f"{prefix}.ln_1.bias", (width,)
        for name in "qkv":
            yield f"{prefix}.attn.{name}_proj.weight", (width, width)
        yield f"{prefix}.attn.out_proj.weight", (width, width)
        yield f"{prefix}.mlp.fc_in.weight", (width, 4 * width)
        yield f"{prefix}.mlp.fc_in.bias", (4 * width,)
        yield f"{prefix}.mlp.fc_out.weight", (4 * width, width)
        yield f"{prefix}.mlp.fc_out.bias", (width,)


def _gpt_neox(model: Legacy) -> _Shapes:
    width = model.width
    yield "gpt_neox.embed_in.weight", (width, len(model.tokens))
    yield "gpt_neox.final_layer_norm.weight", (width,)
    yield "gpt_neox.final_layer_norm.bias", (width,)
    yield "embed_out.weight", (width, len(model.tokens))
    for layer in range(model.layers):
        prefix = f"gpt_neox.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{norm}.weight", (width,)
            yield f"{prefix}.{norm}.bias", (width,)
        for name, columns, rows in (
            ("attention.query_key_value", width, 3 * width),
            ("attention.dense", width, width),
            ("mlp.dense_h_to_4h", width, 4 * width),
            ("mlp.dense_4h_to_h", 4 * width, width),
        ):
            yield f"{prefix}.{name}.weight", (columns, rows)
            yield f"{prefix}.{name}.bias", (rows,)


def _mpt(model: Legacy) -> _Shapes:
    width = model.width
    yield "transformer.wte.weight", (width, len(model.tokens))
    yield "transformer.norm_f.weight", (width,)
    for layer in range(model.layers):
        prefix = f"transformer.blocks.{layer}"
        yield f"{prefix}.norm_1.weight", (width,)
        yield f"{prefix}.attn.Wqkv.weight", (width, 3 * width)
        yield f"{prefix}.attn.out_proj.weight", (width, width)
        yield f"{prefix}.norm_2.weight", (width,)
        yield f"{prefix}.ffn.up_proj.weight", (width, 4 * width)
        yield f"{prefix}.ffn.down_proj.weight", (4 * width, width)


_TENSORS = {
    "llama": _llama,
    "falcon": _falcon,
    "gpt2": _gpt2,
    "starcoder": _gpt2,
    "gptj": _gptj,
    "gpt_neox": _gpt_neox,
    "dolly-v2": _gpt_neox,
    "mpt": _mpt,
    "replit": _mpt,
}
_SCALE = struct.pack("<e", 2.0**-7)


def _tensor(model: Legacy, noise: random.Random, name: str, shape: tuple[int, ...]) -> GgmlTensor:
    kind = {0: F32, 1: F16, 2: Q4_0, 7: Q8_0}[model.file_type % 1000]
    if len(shape) == 1 or name == "model/wpe":
        kind = F32
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    if len(shape) == 1:
        data = struct.pack("<f", 0.0 if name.endswith(("bias", "/b")) else 1.0) * count
    elif kind in (F32, F16):
        values = [(byte - 127.5) / 512 for byte in noise.randbytes(count)]
        data = struct.pack(f"<{count}{'f' if kind == F32 else 'e'}", *values)
    else:
        block = 16 if kind == Q4_0 else 32
        data = b"".join(_SCALE + noise.randbytes(block) for _ in range(count // 32))
    return GgmlTensor(name=name, type_number=kind, shape=shape, data=data)
