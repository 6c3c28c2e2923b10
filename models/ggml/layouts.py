"""The layouts of legacy files: the order of the numbers in front, and the tensors that a model of a type must have.

A file has no name for its model type. It has numbers, tokens and named tensors, and a loader that takes it for the
wrong type reads numbers into the wrong places and crashes. So every layout that a magic can have is described here,
and the reader keeps the one that explains the whole file. Two pairs look alike: gpt2 and starcoder, gpt_neox and
dolly-v2.

Source: the loaders of ctransformers 0.2.27, one function `…_model_load` for each type.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from llmrun.models.ggml.types import GgmlShape

__all__ = ["LAYOUTS", "Layout", "Wanted"]


class Wanted(NamedTuple):
    """What a tensor must be like. A length of None is found out from the file; a vector is always float32.

    `optional`: loaders do without it.
    """

    dimensions: tuple[int | None, ...]
    float32: bool = False
    optional: bool = False


_Tensors = Iterator[tuple[str, Wanted]]


class Layout(NamedTuple):
    """One way to write a model.

    Attributes:
        model_types: Those that are written so; more than one where they cannot be told apart by it.
        magics: Of the files.
        fields: Attributes of `GgmlShape` in the order of the file; 32-bit integers but for `alibi` and `clip`.
        tensors: Yields every tensor by its name.
        counted: Whether the number of tokens is repeated before them.
        scored: Magics under which each token has a score.
        mixed: Whether the matrices may be of different types.
    """

    model_types: tuple[str, ...]
    magics: frozenset[str]
    fields: tuple[str, ...]
    tensors: Callable[[GgmlShape], _Tensors]
    counted: bool = False
    scored: frozenset[str] = frozenset()
    mixed: bool = False


def _vector(length: int) -> Wanted:
    return Wanted((length,), float32=True)


def _llama(shape: GgmlShape) -> _Tensors:
    width, vocabulary = shape.width, shape.vocabulary
    yield "tok_embeddings.weight", Wanted((width, vocabulary))
    yield "norm.weight", _vector(width)
    yield "output.weight", Wanted((width, vocabulary))
    for layer in range(shape.layers):
        prefix = f"layers.{layer}."
        yield f"{prefix}attention_norm.weight", _vector(width)
        yield f"{prefix}attention.wq.weight", Wanted((width, width))
        yield f"{prefix}attention.wk.weight", Wanted((width, None))
        yield f"{prefix}attention.wv.weight", Wanted((width, None))
        yield f"{prefix}attention.wo.weight", Wanted((width, width))
        yield f"{prefix}ffn_norm.weight", _vector(width)
        yield f"{prefix}feed_forward.w1.weight", Wanted((width, None))
        yield f"{prefix}feed_forward.w2.weight", Wanted((None, width))
        yield f"{prefix}feed_forward.w3.weight", Wanted((width, None))


def _falcon(shape: GgmlShape) -> _Tensors:
    width, vocabulary = shape.width, shape.vocabulary
    head = width // shape.heads
    norms = ("ln_mlp", "ln_attn") if _is_falcon_40b(shape) else ("input_layernorm",)
    yield "transformer.word_embeddings.weight", Wanted((width, vocabulary))
    yield "transformer.ln_f.weight", _vector(width)
    yield "transformer.ln_f.bias", _vector(width)
    yield "lm_head.weight", Wanted((width, vocabulary))
    for layer in range(shape.layers):
        prefix = f"transformer.h.{layer}."
        for norm in norms:
            yield f"{prefix}{norm}.weight", _vector(width)
            yield f"{prefix}{norm}.bias", _vector(width)
        attention = (width, (2 * shape.kv_heads + shape.heads) * head)
        yield f"{prefix}self_attention.query_key_value.weight", Wanted(attention)
        yield f"{prefix}self_attention.dense.weight", Wanted((width, width))
        yield f"{prefix}mlp.dense_h_to_4h.weight", Wanted((width, 4 * width))
        yield f"{prefix}mlp.dense_4h_to_h.weight", Wanted((4 * width, width))


def _is_falcon_40b(shape: GgmlShape) -> bool:
    return {32: False, 60: True}.get(shape.layers, shape.falcon == 40)


def _gpt2(shape: GgmlShape) -> _Tensors:
    width = shape.width
    yield "model/ln_f/g", _vector(width)
    yield "model/ln_f/b", _vector(width)
    yield "model/wte", Wanted((width, shape.vocabulary))
    yield "model/wpe", Wanted((width, shape.context), float32=True)
    yield "model/lm_head", Wanted((width, shape.vocabulary), optional=True)
    matrices = (
        ("attn/c_attn", width, 3 * width),
        ("attn/c_proj", width, width),
        ("mlp/c_fc", width, 4 * width),
        ("mlp/c_proj", 4 * width, width),
    )
    for layer in range(shape.layers):
        for norm in ("ln_1", "ln_2"):
            yield f"model/h{layer}/{norm}/g", _vector(width)
            yield f"model/h{layer}/{norm}/b", _vector(width)
        for name, columns, rows in matrices:
            yield f"model/h{layer}/{name}/w", Wanted((columns, rows))
            yield f"model/h{layer}/{name}/b", _vector(rows)


def _gptj(shape: GgmlShape) -> _Tensors:
    width, vocabulary = shape.width, shape.vocabulary
    yield "transformer.wte.weight", Wanted((width, vocabulary))
    yield "transformer.ln_f.weight", _vector(width)
    yield "transformer.ln_f.bias", _vector(width)
    yield "lm_head.weight", Wanted((width, vocabulary))
    yield "lm_head.bias", _vector(vocabulary)
    for layer in range(shape.layers):
        prefix = f"transformer.h.{layer}."
        yield f"{prefix}ln_1.weight", _vector(width)
        yield f"{prefix}ln_1.bias", _vector(width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{prefix}attn.{name}.weight", Wanted((width, width))
        yield f"{prefix}mlp.fc_in.weight", Wanted((width, 4 * width))
        yield f"{prefix}mlp.fc_in.bias", _vector(4 * width)
        yield f"{prefix}mlp.fc_out.weight", Wanted((4 * width, width))
        yield f"{prefix}mlp.fc_out.bias", _vector(width)


def _gpt_neox(shape: GgmlShape) -> _Tensors:
    width, vocabulary = shape.width, shape.vocabulary
    yield "gpt_neox.embed_in.weight", Wanted((width, vocabulary))
    yield "gpt_neox.final_layer_norm.weight", _vector(width)
    yield "gpt_neox.final_layer_norm.bias", _vector(width)
    yield "embed_out.weight", Wanted((width, vocabulary))
    matrices = (
        ("attention.query_key_value", width, 3 * width),
        ("attention.dense", width, width),
        ("mlp.dense_h_to_4h", width, 4 * width),
        ("mlp.dense_4h_to_h", 4 * width, width),
    )
    for layer in range(shape.layers):
        prefix = f"gpt_neox.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{norm}.weight", _vector(width)
            yield f"{prefix}{norm}.bias", _vector(width)
        for name, columns, rows in matrices:
            yield f"{prefix}{name}.weight", Wanted((columns, rows))
            yield f"{prefix}{name}.bias", _vector(rows)


def _mpt(shape: GgmlShape) -> _Tensors:
    width = shape.width
    yield "transformer.wte.weight", Wanted((width, shape.vocabulary))
    yield "transformer.norm_f.weight", _vector(width)
    for layer in range(shape.layers):
        prefix = f"transformer.blocks.{layer}."
        yield f"{prefix}norm_1.weight", _vector(width)
        yield f"{prefix}attn.Wqkv.weight", Wanted((width, 3 * width))
        yield f"{prefix}attn.out_proj.weight", Wanted((width, width))
        yield f"{prefix}norm_2.weight", _vector(width)
        yield f"{prefix}ffn.up_proj.weight", Wanted((width, 4 * width))
        yield f"{prefix}ffn.down_proj.weight", Wanted((4 * width, width))


_PLAIN = frozenset({"ggml"})
_VERSIONED = frozenset({"ggmf", "ggjt", "ggcc"})
_LLAMA_FIELDS = ("vocabulary", "width", "multiple", "heads", "layers", "rope", "file_type")
_FALCON_FIELDS = ("vocabulary", "width", "heads", "kv_heads", "layers", "falcon", "file_type")
_GPT2_FIELDS = ("vocabulary", "context", "width", "heads", "layers", "file_type")
_GPTJ_FIELDS = ("vocabulary", "context", "width", "heads", "layers", "rope", "file_type")
_NEOX_FIELDS = ("vocabulary", "context", "width", "heads", "layers", "rope", "parallel", "file_type")
_MPT_FIELDS = ("width", "context", "heads", "layers", "vocabulary", "alibi", "clip", "file_type")
_REPLIT_FIELDS = ("width", "context", "heads", "layers", "vocabulary", "file_type")

LAYOUTS: tuple[Layout, ...] = (
    Layout(("llama",), _PLAIN | {"ggmf", "ggjt"}, _LLAMA_FIELDS, _llama, scored=_VERSIONED, mixed=True),
    Layout(("falcon",), _PLAIN | {"ggmf", "ggjt"}, _FALCON_FIELDS, _falcon, scored=_VERSIONED, mixed=True),
    Layout(("falcon",), frozenset({"ggcc"}), (*_FALCON_FIELDS, "merges"), _falcon, scored=_VERSIONED, mixed=True),
    Layout(("gpt2", "starcoder"), _PLAIN, _GPT2_FIELDS, _gpt2, counted=True),
    Layout(("gptj",), _PLAIN, _GPTJ_FIELDS, _gptj, counted=True),
    Layout(("gpt_neox", "dolly-v2"), _PLAIN, _NEOX_FIELDS, _gpt_neox),
    Layout(("mpt",), _PLAIN, _MPT_FIELDS, _mpt),
    Layout(("replit",), _PLAIN, _REPLIT_FIELDS, _mpt, scored=_PLAIN),
)
