"""Memory estimates: the formulas on a model whose numbers are known."""

import pytest

from llmrun.engines.memory import estimate_kv_bytes, estimate_need, largest_context
from llmrun.models.types import ModelFormat, ModelInfo


def model(**changes: object) -> ModelInfo:
    """SmolLM2-135M: 30 layers, 3 KV heads of 64, vocabulary 49,152."""
    values: dict[str, object] = {
        "format": ModelFormat.GGUF,
        "architecture": "llama",
        "parameters": 134_515_008,
        "quantization": "Q4_1",
        "context_length": 8192,
        "layers": 30,
        "embedding_length": 576,
        "heads": 9,
        "kv_heads": (3,) * 30,
        "key_length": 64,
        "value_length": 64,
        "vocabulary_size": 49152,
        "tensor_bytes": 96_000_000,
        "tensor_types": (("Q4_1", 96_000_000),),
    }
    return ModelInfo(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("context_length", "kv_type", "expected"),
    [
        pytest.param(8192, "f16", 188_743_680, id="as llama.cpp reports it: 180 MiB"),
        pytest.param(8191, "f16", 188_743_680, id="rounded up to 256"),
        pytest.param(256, "f16", 5_898_240, id="smallest"),
        pytest.param(8192, "q8_0", 100_270_080, id="q8_0"),
        pytest.param(8192, "q4_0", 53_084_160, id="q4_0"),
    ],
)
def test_kv_cache(context_length: int, kv_type: str, expected: int) -> None:
    assert estimate_kv_bytes(model(), context_length, kv_type) == expected


def test_sliding_window_layers_keep_the_window_and_a_batch() -> None:
    windowed = model(sliding_window=512, sliding_window_layers=(True,) * 25 + (False,) * 5)
    per_cell_and_layer = 3 * 128 * 2
    assert estimate_kv_bytes(windowed, 8192) == per_cell_and_layer * (25 * 1024 + 5 * 8192)


def test_layers_without_kv_heads_cost_nothing() -> None:
    hybrid = model(kv_heads=(3, 0) * 15)
    assert estimate_kv_bytes(hybrid, 8192) == estimate_kv_bytes(model(), 8192) // 2


def test_largest_context_is_the_last_one_that_fits() -> None:
    budget = 400_000_000
    fitting = largest_context(model(), budget)
    assert fitting % 256 == 0
    assert estimate_need(model(), fitting).total_bytes <= budget < estimate_need(model(), fitting + 256).total_bytes


def test_nothing_fits_into_too_little() -> None:
    assert largest_context(model(), 50_000_000) == 0
