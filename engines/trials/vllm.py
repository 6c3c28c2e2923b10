"""Try vLLM on a tiny model of which there is only a config.json: it makes random weights itself when it is told to.

Its build for CUDA does nothing without a CUDA device, so there it is not tried at all. It gets one process where it
would take three, and all of its notes and caches go to a folder that is removed.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.trials.process import Verification, run_trial
from llmrun.hardware.types import GpuVendor, Machine

__all__ = ["cannot_try", "try_engine"]

_CHILD = "llmrun.engines.trials.vllm_child"
_TIMEOUT_SECONDS = 180.0
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def cannot_try(facts: EngineFacts, machine: Machine) -> str | None:
    """Return why a trial would show nothing here."""
    nvidia = any(gpu.vendor is GpuVendor.NVIDIA for gpu in machine.gpus)
    accelerator = dict(facts.build).get("accelerator", "")
    if accelerator.startswith("cuda") and not nvidia:
        return "cannot be tried without a CUDA device"
    if accelerator.startswith("rocm") and not any(gpu.vendor is GpuVendor.AMD for gpu in machine.gpus):
        return "cannot be tried without a ROCm device"
    return None


def try_engine(
    facts: EngineFacts,  # noqa: ARG001 - the same for every engine
    machine: Machine,  # noqa: ARG001 - vLLM binds its threads itself
    *,
    python: str = sys.executable,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Verification:
    """Generate some tokens for two prompts at once."""
    environment = dict(_ENVIRONMENT)

    def prepare(folder: Path) -> Sequence[str]:
        model = folder / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
        for name in ("VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TORCHINDUCTOR_CACHE_DIR"):
            environment[name] = str(folder / name.lower())
        return (str(model),)

    return run_trial(_CHILD, prepare, environment=environment, python=python, timeout_seconds=timeout_seconds)
