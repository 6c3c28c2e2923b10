"""A forward pass for decoders of LLaMA's shape, without what transformers does around each layer.

For one token at a time, most of what `model.generate` does is not arithmetic: masks, cache objects, module calls. Here
a layer is a dozen tensor operations on weights that are fused where that saves a call (queries, keys and values in one
matrix; gate and up in another) and on a cache that is allocated once. The weights are those of the loaded model.

    h = x + Wo · attention(rope(Wq · n(x)), rope(Wk · n(x)), Wv · n(x))
    y = h + Wdown · (silu(Wgate · n'(h)) ∘ Wup · n'(h)),      n(x) = x / √(mean(x²) + ε) ∘ g

Source: Touvron et al. 2023 (LLaMA), Su et al. 2021 (rotary positions, in the halves form that transformers stores).
Which classes have exactly this shape is in `SHAPES`; anything odd in a configuration leaves the model to transformers.
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["SlimDecoder", "can_be_slim"]

SHAPES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})
_GROWTH_TOKENS = 512


class _Layer(NamedTuple):
    norm: Any
    qkv: Any
    qkv_bias: Any
    out: Any
    out_bias: Any
    norm_after: Any
    gate_up: Any
    gate_up_bias: Any
    down: Any
    down_bias: Any


def can_be_slim(model: Any) -> bool:
    """Return whether a model has exactly the shape of this module, and lies on one device unquantized."""
    config = model.config
    if type(model).__name__ not in SHAPES or getattr(config, "hidden_act", "silu") != "silu":
        return False
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return False
    if getattr(config, "quantization_config", None) is not None or getattr(model, "llmrun_alibi", False):
        return False
    return len({parameter.device for parameter in model.parameters()}) == 1


class SlimDecoder:
    """The weights of a model, and keys and values of one sequence.

    Attributes:
        length: Tokens whose keys and values are there.
    """

    def __init__(self, model: Any, context_length: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        config = model.config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._width = config.hidden_size
        self._size = getattr(config, "head_dim", None) or self._width // self._heads
        self._epsilon = config.rms_norm_eps
        self._embedding, self._norm = model.model.embed_tokens.weight, model.model.norm.weight
        self._head = model.lm_head.weight
        self._layers = [self._fuse(layer) for layer in model.model.layers]
        self._rotary = model.model.rotary_emb
        self._most = context_length
        self._room = 0
        self._keys: Any = None
        self._values: Any = None
        self.length = 0

    def _fuse(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv, qkv_bias = self._join(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up, gate_up_bias = self._join(mlp.gate_proj, mlp.up_proj)
        return _Layer(
            norm=layer.input_layernorm.weight,
            qkv=qkv,
            qkv_bias=qkv_bias,
            out=attention.o_proj.weight,
            out_bias=attention.o_proj.bias,
            norm_after=layer.post_attention_layernorm.weight,
            gate_up=gate_up,
            gate_up_bias=gate_up_bias,
            down=mlp.down_proj.weight,
            down_bias=mlp.down_proj.bias,
        )

    def _join(self, *modules: Any) -> tuple[Any, Any]:
        """Return the weights of several linear maps as one; the modules keep views of it, so that nothing is twice."""
        with self._torch.no_grad():
            weight = self._torch.cat([module.weight for module in modules])
            begin = 0
            for module in modules:
                end = begin + module.weight.shape[0]
                module.weight.data = weight[begin:end]
                begin = end
            biases = [module.bias for module in modules]
            bias = None if biases[0] is None else self._torch.cat(list(biases))
        return weight, bias

    def rewind(self, length: int) -> None:
        """Forget what came after the first `length` tokens."""
        self.length = min(self.length, length)

    def process(self, tokens: Sequence[int]) -> Any:
        """Take the next tokens and return the logits after the last of them, in float32, shape (vocabulary,)."""
        torch, count = self._torch, len(tokens)
        self._make_room(self.length + count)
        begin, end = self.length, self.length + count
        functional = torch.nn.functional
        x = functional.embedding(torch.tensor(tokens, device=self._embedding.device), self._embedding)
        cos, sin = self._cos[begin:end], self._sin[begin:end]
        mask = None if count == 1 or begin == 0 else self._mask(begin, count)
        for number, layer in enumerate(self._layers):
            x = self._run_layer(number, layer, x, cos, sin, mask)
        self.length = end
        x = functional.rms_norm(x[-1:], (self._width,), self._norm, self._epsilon)
        return functional.linear(x, self._head)[0].float()

    def _run_layer(self, number: int, layer: _Layer, x: Any, cos: Any, sin: Any, mask: Any) -> Any:
        functional = self._torch.nn.functional
        count, begin = x.shape[0], self.length
        end = begin + count
        h = functional.rms_norm(x, (self._width,), layer.norm, self._epsilon)
        mixed = functional.linear(h, layer.qkv, layer.qkv_bias).view(count, -1, self._size).transpose(0, 1)
        turned = mixed[: self._heads + self._kv_heads]
        turned = turned * cos + self._halves(turned) * sin
        keys, values = self._keys[number], self._values[number]
        keys[:, begin:end] = turned[self._heads :]
        values[:, begin:end] = mixed[self._heads + self._kv_heads :]
        seen = functional.scaled_dot_product_attention(
            turned[None, : self._heads],
            keys[None, :, :end],
            values[None, :, :end],
            attn_mask=mask,
            is_causal=count > 1 and begin == 0,
            enable_gqa=self._kv_heads != self._heads,
        )
        x = x + functional.linear(seen[0].transpose(0, 1).reshape(count, -1), layer.out, layer.out_bias)
        h = functional.rms_norm(x, (self._width,), layer.norm_after, self._epsilon)
        gate, up = functional.linear(h, layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        return x + functional.linear(functional.silu(gate) * up, layer.down, layer.down_bias)

    def _halves(self, x: Any) -> Any:
        half = self._size // 2
        return self._torch.cat((-x[..., half:], x[..., :half]), -1)

    def _mask(self, begin: int, count: int) -> Any:
        """Return which keys each of `count` new tokens sees, shape (count, begin + count)."""
        torch = self._torch
        device = self._embedding.device
        places = torch.arange(begin + count, device=device)
        return places[None, :] <= places[begin:, None]

    def _make_room(self, tokens: int) -> None:
        """See that the cache holds so many tokens; it grows in steps, because a context is rarely filled."""
        if tokens <= self._room:
            return
        torch = self._torch
        room = min(self._most, -(-tokens // _GROWTH_TOKENS) * _GROWTH_TOKENS)
        like = {"dtype": self._embedding.dtype, "device": self._embedding.device}
        keys = torch.zeros(len(self._layers), self._kv_heads, room, self._size, **like)
        values = torch.zeros_like(keys)
        if self.length:
            keys[:, :, : self.length] = self._keys[:, :, : self.length]
            values[:, :, : self.length] = self._values[:, :, : self.length]
        self._keys, self._values, self._room = keys, values, room
        places = torch.arange(room, device=self._embedding.device)[None]
        cos, sin = self._rotary(keys.new_zeros(1), places)
        self._cos, self._sin = cos[0].to(keys.dtype), sin[0].to(keys.dtype)
