"""The trained tiny models with a vocabulary of bytes, written as GGUF: the same weights once more, in 32 bits.

The GGUF of tiny-llama is made by `llmrun models convert` from its legacy file.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import trained_models as trained

__all__ = ["write_gpt2_gguf", "write_gpt_neox_gguf"]

_GPT2_NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_NEOX_NAMES = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "input_layernorm": "attn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def write_gpt2_gguf(target: Path) -> None:
    """Write tiny-gpt2."""
    config = json.loads((trained.GPT2 / "config.json").read_text())
    writer = _begin(target, "gpt2", trained.GPT2, config["n_embd"], config["n_layer"], config["n_head"])
    writer.add_context_length(config["n_positions"])
    tensors = trained.read_tensors(trained.GPT2)
    for name, values in tensors.items():
        plain = name.removeprefix("transformer.")
        layer, module, kind = _split(plain, "h.")
        turned = (
            values.T
            if values.ndim == 2 and module in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            else values
        )
        writer.add_tensor(f"{layer}{_GPT2_NAMES[module]}.{kind}", np.ascontiguousarray(turned))
    writer.add_tensor("output.weight", tensors["transformer.wte.weight"])
    _end(writer)


def write_gpt_neox_gguf(target: Path) -> None:
    """Write tiny-gpt-neox."""
    config = json.loads((trained.GPT_NEOX / "config.json").read_text())
    heads = config["num_attention_heads"]
    writer = _begin(target, "gptneox", trained.GPT_NEOX, config["hidden_size"], config["num_hidden_layers"], heads)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_parallel_residual(True)
    for name, values in trained.read_tensors(trained.GPT_NEOX).items():
        layer, module, kind = _split(name, "gpt_neox.layers.")
        if module == "attention.query_key_value":  # head by head there, all queries first here
            values = values.reshape(heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
        writer.add_tensor(f"{layer}{_NEOX_NAMES[module]}.{kind}", np.ascontiguousarray(values))
    _end(writer)


def _begin(target: Path, architecture: str, folder: Path, width: int, layers: int, heads: int) -> Any:
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(0)
    texts = trained.byte_texts(folder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types([3 if text == "<|endoftext|>" else 1 for text in texts])
    writer.add_token_merges(["~ }"])  # there must be one; this makes no token of the vocabulary
    end = texts.index("<|endoftext|>")
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    return writer


def _split(name: str, layers: str) -> tuple[str, str, str]:
    """Return `blk.N.` or nothing, the module, and `weight` or `bias`."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith(layers):
        return "", stem, kind
    number, _, module = stem.removeprefix(layers).partition(".")
    return f"blk.{number}.", module, kind


def _end(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
