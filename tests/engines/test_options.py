"""Options that an engine cannot honour are refused or said, never ignored."""

from pathlib import Path
from typing import Any

import legacy_models as legacy
import pytest

from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.options import check_options, check_sampling, option_notices
from llmrun.engines.prepare import prepare
from llmrun.engines.types import EngineName, SamplingOptions
from llmrun.errors import UsageError
from llmrun.progress import SILENT

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


def sampling(**changes: Any) -> SamplingOptions:
    plain: dict[str, Any] = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repeat_penalty": 1}
    return SamplingOptions(**(plain | {"max_tokens": None, "seed": 0} | changes))


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        pytest.param(CTRANSFORMERS, {"json_schema": "{}"}, "--json-schema is not for ctransformers", id="schema"),
        pytest.param(CTRANSFORMERS, {"grammar": "x"}, "--grammar is not for ctransformers", id="grammar"),
        pytest.param(LLAMA_CPP, {"json_schema": "{}", "grammar": "x"}, "not both", id="both"),
    ],
)
def test_answers_that_an_engine_cannot_constrain(engine: EngineName, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_sampling(engine, sampling(**options))


def test_without_the_package_a_schema_is_refused_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for engine in (PYTORCH, VLLM):
        check_sampling(engine, sampling(logprobs=3))
        with pytest.raises(UsageError, match="needs the package xgrammar") as caught:
            check_sampling(engine, sampling(grammar="x"))
        assert caught.value.fix == f"llmrun install {engine}"
    check_sampling(LLAMA_CPP, sampling(grammar="x"))


def test_log_probabilities_are_for_all() -> None:
    for engine in (LLAMA_CPP, PYTORCH, VLLM, CTRANSFORMERS):
        check_sampling(engine, sampling(logprobs=5))


@pytest.mark.ctransformers
def test_it_is_refused_before_a_process_or_a_model_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrun.engines.client.WorkerClient.__init__", None)  # to start one would be an error
    path = tmp_path / "gpt2.bin"
    path.write_bytes(legacy.write(legacy.ALL["gpt2"]))
    with pytest.raises(UsageError, match="--json-schema is not for ctransformers"):
        prepare(
            str(path),
            PlanRequest(),
            engine=None,
            offline=True,
            progress=SILENT,
            sampling=sampling(json_schema='{"type": "object"}'),
        )
