"""Models and machines for forecasts of speed, and the forecasts as numbers."""

import dataclasses
from pathlib import Path
from typing import Any

from llmrun.engines.speed.forecast import SpeedForecast, forecast_speed
from llmrun.engines.types import EngineName
from llmrun.hardware.profile import read_machine
from llmrun.hardware.types import CpuInfo, Machine
from llmrun.models.types import ModelFormat, ModelInfo

__all__ = ["AMX", "DESKTOP", "LARGE", "LLAMA_CPP", "MIB", "Q4_0", "Q4_K_M"]
__all__ += ["Q8_0", "cpu", "decode", "forecast", "large", "load", "model"]

MACHINES = Path(__file__).parents[1] / "machines"
MIB = 1 << 20
AMX = "sapphire-rapids-vm-amx"
DESKTOP = "rtx-4090-desktop"
LLAMA_CPP = EngineName.LLAMA_CPP


def load(name: str, **changes: Any) -> Machine:
    return dataclasses.replace(read_machine(MACHINES / f"{name}.json"), **changes)


def model(*types: tuple[str, float], **changes: Any) -> ModelInfo:
    """Return a model of Qwen2.5-0.5B's shape with MiB of tensors by type; its embedding is also its output."""
    values: dict[str, Any] = {
        "format": ModelFormat.GGUF,
        "architecture": "qwen2",
        "parameters": 494_000_000,
        "quantization": None,
        "context_length": 32768,
        "layers": 24,
        "embedding_length": 896,
        "heads": 14,
        "kv_heads": (2,) * 24,
        "key_length": 64,
        "value_length": 64,
        "vocabulary_size": 151_936,
        "tensor_bytes": int(sum(size for _, size in types) * MIB),
        "tensor_types": tuple((name, int(size * MIB)) for name, size in types),
    }
    return ModelInfo(**(values | changes))


def large(*types: tuple[str, float], **changes: Any) -> ModelInfo:
    """Return a model of Llama 3 8B's shape, whose embedding and output are two tables."""
    shape = {"parameters": 8_030_000_000, "layers": 32, "embedding_length": 4096, "vocabulary_size": 128_256}
    return model(*types, **(shape | changes))


Q8_0 = model(("Q8_0", 506))
Q4_0 = model(("Q4_0", 192), ("Q8_0", 138))
Q4_K_M = model(("Q5_0", 220), ("Q8_0", 138), ("Q4_K", 10), ("Q6_K", 10))
LARGE = large(("Q4_K", 4000), ("Q6_K", 700))


def forecast(info: ModelInfo, machine: Machine, engine: EngineName = LLAMA_CPP, **options: Any) -> SpeedForecast:
    answer = forecast_speed(engine, info, machine, **options)
    assert answer is not None
    return answer


def decode(info: ModelInfo, machine: Machine, engine: EngineName = LLAMA_CPP, **options: Any) -> float:
    return forecast(info, machine, engine, **options).decode_tokens_per_second


def cpu(*flags: str, architecture: str = "x86_64") -> CpuInfo:
    return CpuInfo(
        name=None,
        architecture=architecture,
        physical_cores=4,
        logical_cores=4,
        affinity=4,
        quota=None,
        isa_flags=frozenset(flags),
    )
