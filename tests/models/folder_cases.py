"""Whole models with the facts that their publishers state: config.json, and every tensor's shape."""

from typing import Any

import pytest
from folder_builder import llama_tensors


def llama(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    } | changes


# The parameters are the published ones, to the last weight.
WHOLE = [
    pytest.param(
        llama(),
        llama_tensors(layers=32, width=4096, kv_width=4096, feed_forward=11008, vocabulary=32000),
        {"parameters": 6_738_415_616, "kv_heads": (32,) * 32, "key_length": 128, "context_length": 4096},
        id="llama-2-7b",
    ),
    pytest.param(
        llama(num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192, intermediate_size=14336),
        llama_tensors(layers=32, width=4096, kv_width=1024, feed_forward=14336, vocabulary=128256),
        {"parameters": 8_030_261_248, "kv_heads": (8,) * 32, "vocabulary_size": 128256, "tensor_bytes": 16_060_522_496},
        id="llama-3-8b",
    ),
    pytest.param(
        llama(
            architectures=["Qwen2ForCausalLM"],
            model_type="qwen2",
            hidden_size=3584,
            intermediate_size=18944,
            num_attention_heads=28,
            num_hidden_layers=28,
            num_key_value_heads=4,
            vocab_size=152064,
            max_position_embeddings=32768,
            sliding_window=131072,
            max_window_layers=28,
            use_sliding_window=False,
        ),
        llama_tensors(layers=28, width=3584, kv_width=512, feed_forward=18944, vocabulary=152064, bias=True),
        {"parameters": 7_615_616_512, "kv_heads": (4,) * 28, "sliding_window": None, "key_length": 128},
        id="qwen2-7b",
    ),
    pytest.param(
        llama(
            architectures=["MistralForCausalLM"],
            model_type="mistral",
            num_key_value_heads=8,
            intermediate_size=14336,
            max_position_embeddings=32768,
            sliding_window=4096,
        ),
        llama_tensors(layers=32, width=4096, kv_width=1024, feed_forward=14336, vocabulary=32000),
        {"parameters": 7_241_732_096, "sliding_window": 4096, "sliding_window_layers": (True,) * 32},
        id="mistral-7b-v0.1",
    ),
    pytest.param(
        llama(
            architectures=["MixtralForCausalLM"],
            model_type="mixtral",
            num_key_value_heads=8,
            intermediate_size=14336,
            max_position_embeddings=32768,
            sliding_window=None,
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
        llama_tensors(layers=32, width=4096, kv_width=1024, feed_forward=14336, vocabulary=32000, experts=8),
        {
            "parameters": 46_702_792_704,
            "sliding_window": None,
            "experts": 8,
            "experts_used": 2,
            "expert_bytes": 2 * 32 * 8 * 3 * 4096 * 14336,
        },
        id="mixtral-8x7b",
    ),
    pytest.param(
        llama(
            architectures=["Qwen3ForCausalLM"],
            model_type="qwen3",
            hidden_size=1024,
            head_dim=128,
            num_attention_heads=16,
            num_hidden_layers=28,
            num_key_value_heads=8,
            intermediate_size=3072,
            vocab_size=151936,
            max_position_embeddings=40960,
            tie_word_embeddings=True,
            use_sliding_window=False,
        ),
        llama_tensors(
            layers=28,
            width=1024,
            kv_width=1024,
            query_width=2048,
            feed_forward=3072,
            vocabulary=151936,
            tied=True,
            extra=(("self_attn.q_norm.weight", 128), ("self_attn.k_norm.weight", 128)),
        ),
        {"parameters": 596_049_920, "key_length": 128, "value_length": 128, "kv_heads": (8,) * 28},
        id="qwen3-0.6b",
    ),
]
