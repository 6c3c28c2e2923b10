"""Options that an engine cannot honour are refused or said, never ignored."""

from typing import Any

import pytest

from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.options import check_options, option_notices
from llmrun.engines.types import EngineName
from llmrun.errors import UsageError

LLAMA_CPP, PYTORCH, VLLM = EngineName.LLAMA_CPP, EngineName.PYTORCH, EngineName.VLLM
CTRANSFORMERS = EngineName.CTRANSFORMERS


@pytest.mark.parametrize(
    ("engine", "options", "words", "fix"),
    [
        pytest.param(PYTORCH, {"kv_type": "q8_0"}, "--kv-type q8_0 is for llama-cpp", "GGUF", id="kv pytorch"),
        pytest.param(VLLM, {"kv_type": "q4_0"}, "--kv-type q4_0 is for llama-cpp", "GGUF", id="kv vllm"),
        pytest.param(PYTORCH, {"draft_path": "/d"}, "runs on pytorch", "GGUF", id="draft pytorch"),
        pytest.param(VLLM, {"draft_path": "/d"}, "runs on vllm", "--lookup on", id="draft vllm"),
        pytest.param(PYTORCH, {"quantization": "4-bit"}, "made for GPUs", "GGUF", id="4-bit pytorch"),
        pytest.param(PYTORCH, {"quantization": "8-bit"}, "made for GPUs", "GGUF", id="8-bit pytorch"),
        pytest.param(LLAMA_CPP, {"quantization": "4-bit"}, "quantized already", "MODEL:Q4_K_M", id="4-bit GGUF"),
    ],
)
def test_what_is_refused_on_a_processor(engine: EngineName, options: dict[str, Any], words: str, fix: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_options(engine, PlanRequest(**options), on_gpu=False)
    assert fix in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        pytest.param(LLAMA_CPP, {"kv_type": "q8_0", "draft_path": "/d", "lookup": "on"}, id="llama-cpp"),
        pytest.param(PYTORCH, {"quantization": "4-bit", "dtype": "float16"}, id="pytorch"),
        pytest.param(VLLM, {"quantization": "4-bit", "lookup": "on"}, id="vllm"),
    ],
)
def test_what_works_on_a_gpu(engine: EngineName, options: dict[str, Any]) -> None:
    check_options(engine, PlanRequest(**options), on_gpu=True)
    assert option_notices(engine, PlanRequest(**options), on_gpu=True) == ()


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        pytest.param(PYTORCH, {"lookup": "on"}, "--lookup on has no effect", id="lookup"),
        pytest.param(CTRANSFORMERS, {"dtype": "float32"}, "--dtype has no effect", id="dtype"),
        pytest.param(VLLM, {"gpu_layers": 3}, "--gpu-layers has no effect", id="layers vllm"),
        pytest.param(PYTORCH, {"gpu_layers": 3}, "as many layers on the GPU as fit", id="layers pytorch"),
    ],
)
def test_what_changes_nothing_is_said(engine: EngineName, options: dict[str, Any], words: str) -> None:
    (notice,) = option_notices(engine, PlanRequest(**options), on_gpu=True)
    assert words in notice
