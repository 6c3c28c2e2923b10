"""ALiBi in the LLaMA of transformers: what Baichuan-13B has instead of rotary positions.

Transformers takes attention functions under names of their own. The one here adds to every score the slope of its head
times the distance from the last key that the query sees, which is its own; both are in the mask, so that it works with
any cache and any decode loop. The rotary embedding is turned by an angle of zero.

Source: Press et al. 2021, "Train Short, Test Long"; _gen_alibi_mask and _get_interleave of modeling_baichuan.py.
"""

import importlib
from functools import lru_cache
from math import floor, log2
from typing import Any

__all__ = ["alibi_slopes", "use_alibi"]

_NAME = "llmrun_alibi"


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Return the slope of each head: powers of 2^(-8/n), and for the heads beyond a power of two every other of 2n."""
    power = 2 ** floor(log2(heads))
    slopes = [2 ** (-8 * (index + 1) / power) for index in range(power)]
    between = [2 ** (-8 * (index + 1) / (2 * power)) for index in range(0, 2 * power, 2)]
    return tuple(slopes + between[: heads - power])


def use_alibi(model: Any) -> None:
    """Have a loaded LlamaForCausalLM use ALiBi instead of rotary positions; `llmrun_alibi` then says that it does."""
    utils: Any = importlib.import_module("transformers.modeling_utils")
    masks: Any = importlib.import_module("transformers.masking_utils")
    utils.ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
    masks.ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, _make_mask)
    model.set_attn_implementation(_NAME)
    model.llmrun_alibi = True
    model.model.rotary_emb.inv_freq.zero_()  # cos 0 = 1, sin 0 = 0


def _make_mask(*arguments: Any, **settings: Any) -> Any:
    """Return which keys each query sees, always as a tensor: the bias has to be added to something."""
    masks: Any = importlib.import_module("transformers.masking_utils")
    return masks.sdpa_mask(
        *arguments, **(settings | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    )


def _attend(
    _module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **_: Any
) -> tuple[Any, None]:
    torch: Any = importlib.import_module("torch")
    places = torch.arange(key.shape[2], device=query.device)
    seen = _seen(attention_mask, places, query.shape[2])
    # How far back each key is, rather than where it is: near ones get small numbers, which 16 bits tell apart.
    last = torch.where(seen, places, 0).amax(dim=-1, keepdim=True)
    bias = _slopes(query.shape[1], query.device) * (places - last)
    bias = bias.to(query.dtype).masked_fill(~seen, torch.finfo(query.dtype).min)
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling)
    return found.transpose(1, 2).contiguous(), None


def _seen(attention_mask: Any, places: Any, queries: int) -> Any:
    """Return which keys each query sees: as the mask says, or all up to its own."""
    if attention_mask is None:
        own = places[-queries:].view(1, 1, queries, 1)
        return places.view(1, 1, 1, -1) <= own
    mask = attention_mask[..., : len(places)]
    return mask if mask.dtype.is_floating_point is False else mask == 0


@lru_cache(maxsize=4)
def _slopes(heads: int, device: Any) -> Any:
    torch: Any = importlib.import_module("torch")
    return torch.tensor(alibi_slopes(heads), device=device).view(1, heads, 1, 1)
