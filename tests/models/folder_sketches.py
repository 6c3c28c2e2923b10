"""Models with the facts that their publishers state: config.json, and as few tensors as pass for the model."""

from typing import Any

import pytest
from folder_builder import sketch

from llmrun.models.types import ModelFormat


def of_type(model_type: str, architecture: str, **values: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type} | values


GEMMA3_4B = of_type(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    text_config={
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    vision_config={"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16},
)
DEEPSEEK_V3 = of_type(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    auto_map={"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    hidden_size=7168,
    kv_lora_rank=512,
    max_position_embeddings=163840,
    n_routed_experts=256,
    num_attention_heads=128,
    num_experts_per_tok=8,
    num_hidden_layers=61,
    num_key_value_heads=128,
    num_nextn_predict_layers=1,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    rope_scaling={"factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"},
    v_head_dim=128,
    vocab_size=129280,
)
FALCON_7B = of_type(
    *("falcon", "FalconForCausalLM"),
    hidden_size=4544,
    multi_query=True,
    new_decoder_architecture=False,
    num_attention_heads=71,
    num_hidden_layers=32,
    vocab_size=65024,
)
FALCON_40B = of_type(
    *("falcon", "FalconForCausalLM"),
    hidden_size=8192,
    multi_query=True,
    new_decoder_architecture=True,
    num_attention_heads=128,
    num_hidden_layers=60,
    num_kv_heads=8,
    vocab_size=65024,
)
BAICHUAN_13B = of_type(
    *("baichuan", "BaichuanForCausalLM"),
    auto_map={"AutoConfig": "configuration_baichuan.BaichuanConfig"},
    hidden_size=5120,
    model_max_length=4096,
    num_attention_heads=40,
    num_hidden_layers=40,
    vocab_size=64000,
)
CHATGLM3_6B = of_type(
    *("chatglm", "ChatGLMModel"),
    hidden_size=4096,
    kv_channels=128,
    multi_query_attention=True,
    multi_query_group_num=2,
    num_attention_heads=32,
    num_layers=28,
    padded_vocab_size=65024,
    seq_length=8192,
)
WTE, EMBED, GLM = "transformer.wte.weight", "model.embed_tokens.weight", "transformer.embedding.word_embeddings.weight"
BLOCKS = "transformer.h.{}.mlp.weight"

SKETCHED = [
    pytest.param(
        GEMMA3_4B,
        sketch(34, "language_model.model.embed_tokens.weight", 262208, 2560, "language_model.model.layers.{}.x.weight")
        | {"vision_tower.vision_model.encoder.layers.50.mlp.weight": ("BF16", (8,))},
        {
            "layers": 34,
            "heads": 8,
            "kv_heads": (4,) * 34,
            "key_length": 256,
            "context_length": 131072,
            "vocabulary_size": 262208,
            "sliding_window": 1024,
            "sliding_window_layers": tuple((index + 1) % 6 != 0 for index in range(34)),
        },
        id="gemma-3-4b",
    ),
    pytest.param(
        DEEPSEEK_V3,
        sketch(62, EMBED, 129280, 7168)
        | {
            "model.layers.3.mlp.experts.0.up_proj.weight": ("BF16", (2048, 7168)),
            "model.layers.3.mlp.shared_experts.up_proj.weight": ("BF16", (2048, 7168)),
        },
        {
            "kv_heads": (1,) * 61,
            "key_length": 576,
            "value_length": 0,
            "context_length": 163840,
            "experts": 256,
            "experts_used": 8,
            "expert_bytes": 2 * 2048 * 7168,
            "remote_code": True,
        },
        id="deepseek-v3",
    ),
    pytest.param(
        of_type(
            *("qwen3_moe", "Qwen3MoeForCausalLM"),
            head_dim=128,
            hidden_size=2048,
            max_position_embeddings=40960,
            max_window_layers=48,
            num_attention_heads=32,
            num_experts=128,
            num_experts_per_tok=8,
            num_hidden_layers=48,
            num_key_value_heads=4,
            sliding_window=None,
            use_sliding_window=False,
            vocab_size=151936,
        ),
        sketch(48, EMBED, 151936, 2048, "model.layers.{}.mlp.experts.0.gate_proj.weight"),
        {"experts": 128, "experts_used": 8, "kv_heads": (4,) * 48, "key_length": 128, "sliding_window": None},
        id="qwen3-30b-a3b",
    ),
    pytest.param(
        of_type("gpt2", "GPT2Model", n_ctx=1024, n_embd=768, n_head=12, n_layer=12, n_positions=1024, vocab_size=50257),
        sketch(12, "wte.weight", 50257, 768, "h.{}.mlp.weight") | {"h.0.attn.bias": ("F32", (1, 1, 1024, 1024))},
        {
            "layers": 12,
            "heads": 12,
            "kv_heads": (12,) * 12,
            "key_length": 64,
            "context_length": 1024,
            "parameters": 50257 * 768 + 12 * 8,
        },
        id="gpt2",
    ),
    pytest.param(
        of_type(
            *("gpt_neox", "GPTNeoXModel"),
            hidden_size=6144,
            max_position_embeddings=2048,
            num_attention_heads=64,
            num_hidden_layers=44,
            vocab_size=50432,
        ),
        sketch(44, "gpt_neox.embed_in.weight", 50432, 6144, "gpt_neox.layers.{}.mlp.weight"),
        {"layers": 44, "kv_heads": (64,) * 44, "key_length": 96, "context_length": 2048},
        id="gpt-neox-20b",
    ),
    pytest.param(
        FALCON_7B,
        sketch(32, "transformer.word_embeddings.weight", 65024, 4544, BLOCKS),
        {"kv_heads": (1,) * 32, "key_length": 64, "context_length": 2048},
        id="falcon-7b",
    ),
    pytest.param(
        FALCON_40B,
        sketch(60, "transformer.word_embeddings.weight", 65024, 8192, BLOCKS),
        {"kv_heads": (8,) * 60, "key_length": 64, "heads": 128},
        id="falcon-40b",
    ),
    pytest.param(
        BAICHUAN_13B,
        sketch(40, EMBED, 64000, 5120),
        {"kv_heads": (40,) * 40, "key_length": 128, "context_length": 4096, "remote_code": True},
        id="baichuan-13b",
    ),
    pytest.param(
        of_type(
            *("internlm2", "InternLM2ForCausalLM"),
            hidden_size=4096,
            max_position_embeddings=32768,
            num_attention_heads=32,
            num_hidden_layers=32,
            num_key_value_heads=8,
            rope_scaling={"factor": 2.0, "type": "dynamic"},
            vocab_size=92544,
        ),
        sketch(32, "model.tok_embeddings.weight", 92544, 4096),
        {"kv_heads": (8,) * 32, "context_length": 65536},
        id="internlm2-7b",
    ),
    pytest.param(
        of_type("bloom", "BloomForCausalLM", n_embed=4096, n_layer=30, num_attention_heads=32, vocab_size=250880),
        sketch(30, "word_embeddings.weight", 250880, 4096, "h.{}.mlp.weight"),
        {"layers": 30, "heads": 32, "embedding_length": 4096, "key_length": 128, "context_length": None},
        id="bloom-7b1",
    ),
    pytest.param(
        of_type(
            *("mpt", "MPTForCausalLM"),
            attn_config={"alibi": True, "attn_type": "multihead_attention"},
            d_model=4096,
            max_seq_len=2048,
            n_heads=32,
            n_layers=32,
            vocab_size=50432,
        ),
        sketch(32, WTE, 50432, 4096, "transformer.blocks.{}.ffn.weight"),
        {"layers": 32, "kv_heads": (32,) * 32, "embedding_length": 4096, "context_length": 2048},
        id="mpt-7b",
    ),
    pytest.param(
        of_type(
            *("dbrx", "DbrxForCausalLM"),
            attn_config={"kv_n_heads": 8, "clip_qkv": 8},
            d_model=6144,
            ffn_config={"moe_num_experts": 16, "moe_top_k": 4},
            max_seq_len=32768,
            n_heads=48,
            n_layers=40,
            vocab_size=100352,
        ),
        sketch(40, WTE, 100352, 6144, "transformer.blocks.{}.ffn.experts.mlp.w1"),
        {"kv_heads": (8,) * 40, "experts": 16, "experts_used": 4, "key_length": 128, "context_length": 32768},
        id="dbrx",
    ),
    pytest.param(
        of_type(
            *("phi", "PhiModel"),
            hidden_size=2560,
            max_position_embeddings=2048,
            num_attention_heads=32,
            num_hidden_layers=32,
            num_key_value_heads=32,
            vocab_size=51200,
        ),
        sketch(32, EMBED, 51200, 2560),
        {"key_length": 80, "kv_heads": (32,) * 32},
        id="phi-2",
    ),
    pytest.param(
        CHATGLM3_6B,
        sketch(28, GLM, 65024, 4096, "transformer.encoder.layers.{}.mlp.weight"),
        {"layers": 28, "kv_heads": (2,) * 28, "key_length": 128, "context_length": 8192, "vocabulary_size": 65024},
        id="chatglm3-6b",
    ),
    pytest.param(
        of_type(
            *("gpt_oss", "GptOssForCausalLM"),
            head_dim=64,
            hidden_size=2880,
            initial_context_length=4096,
            layer_types=["sliding_attention", "full_attention"] * 12,
            max_position_embeddings=131072,
            num_attention_heads=64,
            num_experts_per_tok=4,
            num_hidden_layers=24,
            num_key_value_heads=8,
            num_local_experts=32,
            quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
            rope_scaling={"factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn"},
            sliding_window=128,
            vocab_size=201088,
        ),
        {EMBED: ("BF16", (201088, 2880))}
        | {f"model.layers.{i}.mlp.experts.down_proj_blocks": ("U8", (32, 2880, 90, 16)) for i in range(24)}
        | {f"model.layers.{i}.mlp.experts.down_proj_scales": ("U8", (32, 2880, 90)) for i in range(24)},
        {
            "format": ModelFormat.FP4,
            "quantization": "mxfp4",
            "context_length": 131072,
            "parameters": 201088 * 2880 + 24 * 32 * 2880 * 2880,
            "experts": 32,
            "experts_used": 4,
            "sliding_window": 128,
            "sliding_window_layers": (True, False) * 12,
        },
        id="gpt-oss-20b",
    ),
    pytest.param(
        of_type(
            *("jamba", "JambaForCausalLM"),
            attn_layer_offset=4,
            attn_layer_period=8,
            hidden_size=4096,
            max_position_embeddings=262144,
            num_attention_heads=32,
            num_hidden_layers=32,
            num_key_value_heads=8,
            vocab_size=65536,
        ),
        sketch(32, EMBED, 65536, 4096),
        {"kv_heads": tuple(8 if index % 8 == 4 else 0 for index in range(32)), "key_length": 128},
        id="jamba-v0.1",
    ),
    pytest.param(
        of_type("mamba", "MambaForCausalLM", hidden_size=768, num_hidden_layers=24, vocab_size=50280),
        sketch(24, "backbone.embeddings.weight", 50280, 768, "backbone.layers.{}.mixer.weight"),
        {"kv_heads": (0,) * 24, "heads": 0, "key_length": 0},
        id="mamba-130m",
    ),
    pytest.param(
        of_type(
            *("llava", "LlavaForConditionalGeneration"),
            text_config={"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
            vision_config={"hidden_size": 1024},
        ),
        sketch(32, "language_model.model.embed_tokens.weight", 32064, 4096, "language_model.model.layers.{}.x.weight"),
        {"layers": 32, "heads": 32, "embedding_length": 4096, "vocabulary_size": 32064},
        id="llava-1.5-7b",
    ),
]
