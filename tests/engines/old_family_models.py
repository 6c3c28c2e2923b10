"""Tiny models of the old families: random weights under the original names, and what their published code computes.

The forward passes are written from the formulas of the published models, with nothing of transformers in them.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import linear, normalize, silu, softmax

WIDTH, HEADS, FEED_FORWARD, LAYERS = 32, 4, 48, 2
SHAPE = {
    "hidden_size": WIDTH,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CODE = {"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}}
KINDS: dict[str, dict[str, Any]] = {
    "internlm-7b": {
        "architectures": ["InternLMForCausalLM"],
        "model_type": "internlm",
        "bias": True,
        "vocab_size": 96,
        "max_position_embeddings": 64,
        "rotary": {"base": 10000, "type": "dynamic"},
    },
    "internlm-20b": {
        "architectures": ["InternLMForCausalLM"],
        "model_type": "internlm",
        "bias": False,
        "vocab_size": 96,
        "max_position_embeddings": 64,
        "num_key_value_heads": 4,
        "rope_scaling": None,
        "rope_theta": 10000.0,
    },
    "internlm2": {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "vocab_size": 96,
        "max_position_embeddings": 64,
        "num_key_value_heads": 2,
        "rope_theta": 1000000,
    },
    "baichuan-7b": {
        "architectures": ["BaiChuanForCausalLM"],
        "model_type": "baichuan",
        "vocab_size": 96,
        "max_position_embeddings": 64,
    },
    "baichuan2-7b": {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "vocab_size": 96,
        "max_position_embeddings": 64,
        "model_max_length": 64,
        "z_loss_weight": 0,
    },
    "baichuan-13b": {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "vocab_size": 96,
        "model_max_length": 64,
        "num_attention_heads": 5,  # like 40, no power of two
        "hidden_size": 40,
    },
    "baichuan2-13b": {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "vocab_size": 96,
        "model_max_length": 64,
        "z_loss_weight": 0,
        "num_attention_heads": 6,
        "hidden_size": 48,
    },
}

Weights = dict[str, torch.Tensor]


def config_of(kind: str) -> dict[str, Any]:
    return SHAPE | CODE | KINDS[kind]


def weights_of(kind: str, seed: int = 5) -> Weights:
    """Random weights under the names of the original, large enough for every term to matter."""
    config, generator = config_of(kind), torch.Generator().manual_seed(seed)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * (0.7 if len(shape) == 1 else 1.5 / math.sqrt(shape[-1]))

    width, vocabulary, feed_forward = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    if kind == "internlm2":
        names = {"table": "model.tok_embeddings", "head": "output", "before": "attention_norm", "after": "ffn_norm"}
        names |= {"gate": "feed_forward.w1", "up": "feed_forward.w3", "down": "feed_forward.w2"}
    else:
        names = {"table": "model.embed_tokens", "head": "lm_head", "before": "input_layernorm"}
        names |= {"after": "post_attention_layernorm", "gate": "mlp.gate_proj", "up": "mlp.up_proj"}
        names |= {"down": "mlp.down_proj"}
    found = {f"{names['table']}.weight": make(vocabulary, width), "model.norm.weight": make(width)}
    found[f"{names['head']}.weight"] = make(vocabulary, width)
    for layer in (f"model.layers.{index}." for index in range(config["num_hidden_layers"])):
        for name in ("before", "after"):
            found[f"{layer}{names[name]}.weight"] = make(width)
        for name in ("gate", "up"):
            found[f"{layer}{names[name]}.weight"] = make(feed_forward, width)
        found[f"{layer}{names['down']}.weight"] = make(width, feed_forward)
        for name, rows in attention_rows(kind, config).items():
            found[f"{layer}{name}.weight"] = make(rows, width)
            if config.get("bias"):
                found[f"{layer}{name}.bias"] = make(rows)
    return found


def attention_rows(kind: str, config: dict[str, Any]) -> dict[str, int]:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if kind == "internlm2":
        return {
            "attention.wqkv": width // heads * (heads + 2 * config["num_key_value_heads"]),
            "attention.wo": width,
        }
    if kind.startswith("internlm"):
        return {f"self_attn.{each}_proj": width for each in "qkvo"}
    return {"self_attn.W_pack": 3 * width, "self_attn.o_proj": width}


def write_model(folder: Path, kind: str, *, shards: int = 1, dtype: torch.dtype = torch.float32) -> Weights:
    """Write a folder as its publisher would, and return the weights in it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(dtype) for name, tensor in weights_of(kind).items()}
    (folder / "config.json").write_text(json.dumps(config_of(kind)))
    names = list(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return weights
    places: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        save_file({each: weights[each] for each in part}, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


# The published formulas ----------------------------------------------------------------------------------------------


def reference_logits(kind: str, weights: Weights, tokens: list[int]) -> torch.Tensor:
    """What the published code of a family computes, in float32: logits of every position."""
    config = config_of(kind)
    find = {name: tensor.float() for name, tensor in weights.items()}
    second = kind == "internlm2"
    hidden = find["model.tok_embeddings.weight" if second else "model.embed_tokens.weight"][tokens]
    for layer in (f"model.layers.{index}." for index in range(config["num_hidden_layers"])):
        norms = ("attention_norm", "ffn_norm") if second else ("input_layernorm", "post_attention_layernorm")
        hidden = hidden + attention(kind, config, find, layer, rms_norm(hidden, find[f"{layer}{norms[0]}.weight"]))
        inner = rms_norm(hidden, find[f"{layer}{norms[1]}.weight"])
        gate, up, down = ("w1", "w3", "w2") if second else ("gate_proj", "up_proj", "down_proj")
        block = f"{layer}feed_forward." if second else f"{layer}mlp."
        inner = silu(linear(inner, find[f"{block}{gate}.weight"])) * linear(inner, find[f"{block}{up}.weight"])
        hidden = hidden + linear(inner, find[f"{block}{down}.weight"])
    hidden = rms_norm(hidden, find["model.norm.weight"])
    head = find["output.weight" if second else "lm_head.weight"]
    return linear(hidden, normalize(head) if kind.startswith("baichuan2") else head)


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6))


def attention(kind: str, config: dict[str, Any], find: Weights, layer: str, hidden: torch.Tensor) -> torch.Tensor:
    heads, length = config["num_attention_heads"], hidden.shape[0]
    size = config["hidden_size"] // heads
    queries, keys, values = project(kind, config, find, layer, hidden)
    scores = torch.zeros(heads, length, length)
    positions = torch.arange(length)
    if kind.endswith("13b"):
        scores += torch.tensor(interleave(heads)).view(-1, 1, 1) * (positions - (length - 1))
    else:
        base = float(config.get("rope_theta", 10000))
        queries, keys = rotate(queries, base), rotate(keys, base)
    scores += queries @ keys.transpose(1, 2) / math.sqrt(size)
    scores = scores.masked_fill(positions > positions.view(-1, 1), float("-inf"))
    mixed = (softmax(scores, dim=-1) @ values).transpose(0, 1).reshape(length, -1)
    name = f"{layer}attention.wo" if kind == "internlm2" else f"{layer}self_attn.o_proj"
    return linear(mixed, find[f"{name}.weight"], find.get(f"{name}.bias"))


def project(
    kind: str, config: dict[str, Any], find: Weights, layer: str, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values, each as heads, positions, size."""
    heads, length = config["num_attention_heads"], hidden.shape[0]
    size = config["hidden_size"] // heads
    if kind == "internlm2":
        groups = config["num_key_value_heads"]
        mixed = linear(hidden, find[f"{layer}attention.wqkv.weight"]).view(length, groups, -1, size)
        per_group = heads // groups
        queries = mixed[:, :, :per_group].reshape(length, heads, size)
        # each key head serves the queries of its group
        keys = mixed[:, :, -2].repeat_interleave(per_group, dim=1)
        values = mixed[:, :, -1].repeat_interleave(per_group, dim=1)
    elif kind.startswith("internlm"):
        names = [f"{layer}self_attn.{each}_proj" for each in "qkv"]
        queries, keys, values = (
            linear(hidden, find[f"{name}.weight"], find.get(f"{name}.bias")).view(length, heads, size) for name in names
        )
    else:
        packed = linear(hidden, find[f"{layer}self_attn.W_pack.weight"])
        queries, keys, values = packed.unflatten(-1, (3, heads, size)).unbind(1)
    return queries.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1)


def rotate(states: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary positions: pairs are half a head apart."""
    size = states.shape[-1]
    angles = torch.outer(torch.arange(states.shape[1]).float(), base ** (-torch.arange(0, size, 2).float() / size))
    angles = torch.cat((angles, angles), dim=-1)
    turned = torch.cat((-states[..., size // 2 :], states[..., : size // 2]), dim=-1)
    return states * angles.cos() + turned * angles.sin()


def interleave(heads: int) -> list[float]:
    """Slopes of ALiBi, by the recursion of the published code."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**index for index in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return interleave(power) + interleave(2 * power)[0::2][: heads - power]
