"""A GPT-2 that goes on with one text for ever: every token is followed by the one that comes after it in the text.

Its layers add nothing, each byte has a random direction, and the output looks for the direction of the byte before. So
what it answers is known to the byte, which no trained model of this size could promise of emoji.
"""

import numpy as np

from llmrun.models.ggml_writer import GgmlTensor, write_ggml

__all__ = ["chain_gpt2"]

_WIDTH, _CONTEXT = 64, 128


def chain_gpt2(text: bytes) -> bytes:
    """Return an unversioned `ggml` file of a model that repeats `text`, whose bytes must all be different.

    Asked with the last byte of the text, it begins with the first one.
    """
    assert len(set(text)) == len(text)
    tokens = [*(bytes([byte]) for byte in range(256)), b"<|endoftext|>"]
    noise = np.random.default_rng(0)
    directions = noise.standard_normal((len(tokens), _WIDTH), dtype=np.float32)
    directions -= directions.mean(axis=1, keepdims=True)
    wanted = np.zeros_like(directions)
    for place, byte in enumerate(text):
        wanted[byte] = directions[text[place - 1]]
    zeros: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.zeros((4 * _WIDTH, 4 * _WIDTH), dtype=np.float32)
    tensors = [
        _tensor("model/wte", directions),
        _tensor("model/lm_head", wanted),
        _tensor("model/wpe", zeros[:1, :_WIDTH].repeat(_CONTEXT, axis=0)),
        *(_tensor(f"model/{name}/g", np.ones(_WIDTH)) for name in ("ln_f", "h0/ln_1", "h0/ln_2")),
        *(_tensor(f"model/{name}/b", np.zeros(_WIDTH)) for name in ("ln_f", "h0/ln_1", "h0/ln_2")),
    ]
    for name, rows, columns in (("attn/c_attn", 3, 1), ("attn/c_proj", 1, 1), ("mlp/c_fc", 4, 1), ("mlp/c_proj", 1, 4)):
        tensors.append(_tensor(f"model/h0/{name}/w", zeros[: rows * _WIDTH, : columns * _WIDTH]))
        tensors.append(_tensor(f"model/h0/{name}/b", zeros[0, : rows * _WIDTH]))
    return write_ggml((len(tokens), _CONTEXT, _WIDTH, 4, 1, 0), tokens, tensors)


def _tensor(name: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> GgmlTensor:
    array = np.ascontiguousarray(values, dtype=np.float32)
    return GgmlTensor(name=name, type_number=0, shape=tuple(reversed(array.shape)), data=array.tobytes())
