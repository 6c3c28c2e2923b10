"""How many answers of a batch are written at once: what was asked for, else what suits the engine."""

import pytest

from llmrun.engines.batch.parallel import choose_parallel
from llmrun.engines.types import EngineName, LoadPlan


@pytest.mark.parametrize(
    ("engine", "gpu_layers", "wanted", "chosen"),
    [
        (EngineName.LLAMA_CPP, 0, None, 16),
        (EngineName.LLAMA_CPP, -1, None, 32),
        (EngineName.LLAMA_CPP, -1, 4, 4),
        (EngineName.VLLM, 0, None, 32),
        (EngineName.VLLM, -1, None, 256),
        (EngineName.VLLM, -1, 1000, 1000),
        (EngineName.PYTORCH, -1, None, 1),
        (EngineName.PYTORCH, -1, 8, 1),
        (EngineName.CTRANSFORMERS, 0, 8, 1),
    ],
)
def test_choice(engine: EngineName, gpu_layers: int, wanted: int | None, chosen: int) -> None:
    plan = LoadPlan(engine=engine, model_path="m", context_length=1024, threads=1, gpu_layers=gpu_layers)
    assert choose_parallel(plan, wanted) == chosen
