"""From a plan to vLLM's engine arguments: what it may take, and what it need not do before the first answer.

vLLM's defaults are those of a server that has the machine for itself: it takes 92% of a GPU for its cache whatever the
context, and compiles for a minute before the first token. Here the cache has a size in bytes, that of the context of
the plan, and more only for prompts that come together; what has to be free at the start is what the plan estimated.

On a GPU the decode step is captured in CUDA graphs and nothing is compiled, which keeps the start short and the decode
rate near that of compiled code. On a processor there are no graphs, and small batches of the prompt keep a step short,
so that a request to cancel is heard in time.

Source: gpu_worker.py (determine_available_memory), cpu_worker.py and EngineArgs of vLLM 0.32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.engines.memory.kv import estimate_kv_bytes
from llmrun.engines.memory.vllm import HOST_BYTES
from llmrun.engines.types import LoadPlan
from llmrun.errors import UsageError
from llmrun.models.huggingface.folder import LocalFolder
from llmrun.models.huggingface.json import find_json
from llmrun.models.types import ModelInfo

__all__ = ["PROCESSOR", "Device", "engine_arguments", "kv_cache_bytes", "longer_context", "refuse_unsupported"]

PROCESSOR = "llmrun.engines.vllm.processor:SamplingProcessor"
"""The logits processor that gives sampling options the meaning that they have with every engine."""

_SEQUENCES = 32  # at once at least: on a GPU each size is a graph that is captured at the start
_GPU_BATCH_TOKENS = 8192
_CPU_BATCH_TOKENS = 256  # of one step, which cannot be interrupted: on two busy cores 512 took longer than a second
_GPU_BLOCK_TOKENS = 16
_CPU_BLOCK_TOKENS = 128
_SHARED_CONTEXT = 2048  # tokens of cache for each prompt beyond the first; vLLM queues what does not fit
_SHARE = 0.9  # of the free memory
_GUESSED_TOKENS = 4  # ahead of a step, and the n-grams that are looked for
_SHORTEST_NGRAM, _LONGEST_NGRAM = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where vLLM will compute.

    Attributes:
        on_gpu: On GPUs; otherwise on the processor.
        free_bytes: Memory that is free there, on each GPU.
        total_bytes: All of its memory.
    """

    on_gpu: bool
    free_bytes: int
    total_bytes: int


def refuse_unsupported(plan: LoadPlan, *, on_gpu: bool) -> None:
    """Refuse what vLLM cannot do.

    Raises:
        UsageError: Names the option, and what does work.
    """
    if plan.quantization == "8-bit":
        raise UsageError(
            "vLLM does not quantize to 8 bits while loading", fix="--engine pytorch, or --quantization 4-bit on a GPU"
        )
    if plan.quantization is not None and not on_gpu:
        raise UsageError(
            f"--quantization {plan.quantization} needs a GPU with vLLM",
            fix="a GGUF file of the model, which llama-cpp runs quantized on the processor",
        )
    if plan.draft_path is not None:
        raise UsageError("--draft works with llama-cpp only", fix="--lookup on")


def engine_arguments(plan: LoadPlan, info: ModelInfo, device: Device, folder: Path) -> dict[str, Any]:
    """Return the arguments of `EngineArgs`; those that a release of vLLM does not know may be left out."""
    guesses = plan.lookup == "on"
    arguments: dict[str, Any] = {
        "model": str(folder),
        "tokenizer": str(folder),
        "skip_tokenizer_init": not guesses,
        "load_format": "auto" if plan.pickle else "safetensors",
        "trust_remote_code": plan.remote_code,
        "dtype": plan.dtype,
        "seed": 0,
        "max_model_len": plan.context_length,
        "max_num_seqs": max(_SEQUENCES, plan.parallel),
        "max_logprobs": -1,
        "generation_config": "vllm",  # the options say how to sample, not the folder
        "enable_prefix_caching": True,
        "kv_cache_memory_bytes": kv_cache_bytes(plan, info, device),
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **(_on_gpu(plan, device) if device.on_gpu else _on_processor(plan)),
    }
    if guesses:
        arguments["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": _GUESSED_TOKENS,
            "prompt_lookup_min": _SHORTEST_NGRAM,
            "prompt_lookup_max": _LONGEST_NGRAM,
        }
    else:
        arguments["logits_processors"] = [PROCESSOR]
    return arguments


def longer_context(plan: LoadPlan, info: ModelInfo, folder: Path) -> dict[str, Any]:
    """Return the arguments for a context beyond the one that the model was trained for: vLLM refuses it otherwise.

    Plain rotary positions go on as they are, which is what every other engine does.

    Raises:
        UsageError: Its positions are scaled for the context that it has.
    """
    if info.context_length is None or plan.context_length <= info.context_length:
        return {}
    values = find_json(LocalFolder(folder), "config.json") or {}
    rope = values.get("rope_parameters", values.get("rope_scaling")) or {}
    plain = isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) == "default"
    if not plain or type(values.get("max_position_embeddings")) is not int:
        raise UsageError(
            f"vLLM runs this model with up to {info.context_length:,} tokens of context, and {plan.context_length:,} "
            "were asked for",
            fix=f"--context-length {info.context_length}, or --engine pytorch",
        )
    return {"hf_overrides": {"max_position_embeddings": plan.context_length}}


def _on_gpu(plan: LoadPlan, device: Device) -> Mapping[str, Any]:
    gpus = max(1, plan.gpus)
    wanted = max(plan.estimated_bytes - HOST_BYTES, 1) / gpus
    most = max(0.05, min(0.95, 0.98 * device.free_bytes / device.total_bytes))
    return {
        "tensor_parallel_size": gpus,
        "max_num_batched_tokens": _GPU_BATCH_TOKENS,
        "gpu_memory_utilization": max(0.05, min(most, wanted / device.total_bytes)),
        "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
        **({"quantization": "bitsandbytes"} if plan.quantization == "4-bit" else {}),
    }


def _on_processor(plan: LoadPlan) -> Mapping[str, Any]:
    return {
        "max_num_batched_tokens": max(_CPU_BATCH_TOKENS, _SEQUENCES, plan.parallel),
        "enforce_eager": True,
        "block_size": _CPU_BLOCK_TOKENS,
    }


def kv_cache_bytes(plan: LoadPlan, info: ModelInfo, device: Device) -> int:
    """Return the size of the cache, on each GPU: the context, and room for more prompts where memory is free.

    Layers with a window may share blocks with the others, so they are counted as those where there is room for it.
    """
    block = _GPU_BLOCK_TOKENS if device.on_gpu else _CPU_BLOCK_TOKENS
    gpus = max(1, plan.gpus) if device.on_gpu else 1

    def size(tokens: int, *, windows: bool = False) -> int:
        blocks = -(-tokens // block) + 2  # one that vLLM keeps for padding, one that a rounding may cost
        element = 4.0 if plan.dtype == "float32" else 2.0
        least = estimate_kv_bytes(info, blocks * block, batch_tokens=_GPU_BATCH_TOKENS, element_bytes=element)
        if not windows or not any(info.sliding_window_layers):
            return least
        heads = sum(info.kv_heads)
        return max(least, int(blocks * block * heads * (info.key_length + info.value_length) * element))

    needed = size(plan.context_length)
    weights = info.tensor_bytes // gpus
    room = max(0, int(device.free_bytes * _SHARE) - weights - max(0, plan.estimated_bytes - info.tensor_bytes) // gpus)
    others = min(plan.parallel - 1, _SEQUENCES * 8) * size(min(plan.context_length, _SHARED_CONTEXT))
    generous = size(plan.context_length, windows=True) - needed
    return -(-(needed + min(room * gpus, generous + others)) // gpus)
