"""The trained tiny models of tests/data, written in the formats before GGUF: the same weights, in 32 bits."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.models.ggml_writer import GgmlTensor, LlamaShape, write_ggjt_llama, write_ggml, write_legacy

DATA = Path(__file__).parents[1] / "data"
LLAMA, GPT2, GPT_NEOX = DATA / "tiny-llama", DATA / "tiny-gpt2", DATA / "tiny-gpt-neox"
QUESTION = "Question: What is the capital of Norway?\nAnswer:"
ANSWER = " Oslo."

_Array = Any


def read_tensors(folder: Path) -> dict[str, _Array]:
    """Return the tensors of a safetensors file in float16, as float32."""
    data = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, row in header.items():
        if name != "__metadata__":
            begin, end = row["data_offsets"]
            assert row["dtype"] == "F16"
            flat = np.frombuffer(data[8 + size + begin : 8 + size + end], dtype=np.float16)
            tensors[name] = flat.reshape(row["shape"]).astype(np.float32)
    return tensors


def _tensor(name: str, values: _Array) -> GgmlTensor:
    """Return a tensor; its shape has the length of a row first."""
    array = np.ascontiguousarray(values, dtype=np.float32)
    return GgmlTensor(name=name, type_number=0, shape=tuple(reversed(array.shape)), data=array.tobytes())


def legacy_llama() -> bytes:
    """Return tiny-llama as a `ggjt` version 3 file."""
    config = json.loads((LLAMA / "config.json").read_text())
    heads, width = config["num_attention_heads"], config["hidden_size"]
    shape = LlamaShape(
        embedding_length=width,
        multiple=64,
        heads=heads,
        layers=config["num_hidden_layers"],
        rope_dimensions=width // heads,
        file_type=0,
    )
    assert shape.feed_forward_length == config["intermediate_size"]
    vocabulary = json.loads((LLAMA / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = [(_legacy_piece(text), 0.0) for text in sorted(vocabulary, key=vocabulary.__getitem__)]
    return write_ggjt_llama(shape, pieces, list(_llama_tensors(read_tensors(LLAMA), heads)))


def _legacy_piece(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x"):
        return bytes([int(text[3:5], 16)])
    return {"<unk>": " \u2047 ", "<s>": "", "</s>": ""}.get(text, text).replace("▁", " ").encode()


def _llama_tensors(tensors: dict[str, _Array], heads: int) -> Iterator[GgmlTensor]:
    turned: Callable[[_Array], _Array] = lambda weight: _interleave(weight, heads)  # noqa: E731
    names: dict[str, tuple[str, Callable[[_Array], _Array]]] = {
        "input_layernorm": ("attention_norm", np.asarray),
        "self_attn.q_proj": ("attention.wq", turned),
        "self_attn.k_proj": ("attention.wk", turned),
        "self_attn.v_proj": ("attention.wv", np.asarray),
        "self_attn.o_proj": ("attention.wo", np.asarray),
        "post_attention_layernorm": ("ffn_norm", np.asarray),
        "mlp.gate_proj": ("feed_forward.w1", np.asarray),
        "mlp.down_proj": ("feed_forward.w2", np.asarray),
        "mlp.up_proj": ("feed_forward.w3", np.asarray),
    }
    yield _tensor("tok_embeddings.weight", tensors["model.embed_tokens.weight"])
    yield _tensor("norm.weight", tensors["model.norm.weight"])
    yield _tensor("output.weight", tensors["lm_head.weight"])
    for name, values in tensors.items():
        if name.startswith("model.layers."):
            number, _, rest = name.removeprefix("model.layers.").partition(".")
            legacy, change = names[rest.removesuffix(".weight")]
            yield _tensor(f"layers.{number}.{legacy}.weight", change(values))


def _interleave(weight: _Array, heads: int) -> _Array:
    """Order the rows of each head as LLaMA's own files have them: pairs side by side, not halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def legacy_gpt2() -> bytes:
    """Return tiny-gpt2 as an unversioned `ggml` file."""
    config = json.loads((GPT2 / "config.json").read_text())
    pieces = _byte_pieces(GPT2)
    numbers = (len(pieces), config["n_positions"], config["n_embd"], config["n_head"], config["n_layer"], 0)
    return write_ggml(numbers, pieces, list(_gpt2_tensors(read_tensors(GPT2))))


def byte_texts(folder: Path) -> list[str]:
    """Return the tokens of a vocabulary of bytes in the order of their ids, as GPT-2 spells them."""
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {**document["model"]["vocab"], **{row["content"]: row["id"] for row in document["added_tokens"]}}
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _byte_pieces(folder: Path) -> list[bytes]:
    table = _byte_of_character()
    return [bytes([table[text]]) if text in table else text.encode() for text in byte_texts(folder)]


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's table of bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _gpt2_tensors(tensors: dict[str, _Array]) -> Iterator[GgmlTensor]:
    plain = {name.removeprefix("transformer."): values for name, values in tensors.items()}
    yield _tensor("model/wte", plain["wte.weight"])
    yield _tensor("model/wpe", plain["wpe.weight"])
    yield _tensor("model/ln_f/g", plain["ln_f.weight"])
    yield _tensor("model/ln_f/b", plain["ln_f.bias"])
    for name, values in plain.items():
        if not name.startswith("h."):
            continue
        _, number, module, *rest = name.split(".")
        if module in ("ln_1", "ln_2"):
            kind = "g" if rest == ["weight"] else "b"
            yield _tensor(f"model/h{number}/{module}/{kind}", values)
        elif rest[-1] == "weight":
            yield _tensor(f"model/h{number}/{module}/{rest[0]}/w", values.T)  # Conv1D keeps its matrix turned
        elif rest[-1] == "bias" and len(rest) == 2:
            yield _tensor(f"model/h{number}/{module}/{rest[0]}/b", values)


def legacy_gpt_neox() -> bytes:
    """Return tiny-gpt-neox as an unversioned `ggml` file: its tensors keep the names that they have in transformers."""
    config = json.loads((GPT_NEOX / "config.json").read_text())
    width, heads = config["hidden_size"], config["num_attention_heads"]
    pieces = _byte_pieces(GPT_NEOX)
    rope = int(width // heads * config["rope_parameters"]["partial_rotary_factor"])
    numbers = (len(pieces), config["max_position_embeddings"], width, heads, config["num_hidden_layers"], rope, 1, 0)
    tensors = [_tensor(name, values) for name, values in read_tensors(GPT_NEOX).items()]
    return write_legacy("ggml", 0, numbers, [(piece, None) for piece in pieces], tensors)
