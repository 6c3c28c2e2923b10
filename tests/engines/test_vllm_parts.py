"""The parts of the vLLM adapter that need no vLLM: arguments, options, errors, progress."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.types import EngineName, LoadPlan, SamplingOptions
from llmrun.engines.vllm.arguments import (
    PROCESSOR,
    Device,
    engine_arguments,
    kv_cache_bytes,
    longer_context,
    refuse_unsupported,
)
from llmrun.engines.vllm.errors import NOT_FINITE, load_error, request_error
from llmrun.engines.vllm.sampling import extra_arguments, native_notices, sampling_arguments
from llmrun.engines.vllm.startup import watch_startup
from llmrun.errors import (
    LlmrunError,
    ModelFileError,
    NotEnoughMemoryError,
    NoUsableEngineError,
    UsageError,
)
from llmrun.models.types import ModelFormat, ModelInfo

GIB = 1 << 30
INFO = ModelInfo(
    format=ModelFormat.PYTORCH,
    architecture="LlamaForCausalLM",
    parameters=10**9,
    quantization="bf16",
    context_length=8192,
    layers=4,
    embedding_length=256,
    heads=4,
    kv_heads=(2,) * 4,
    key_length=64,
    value_length=64,
    vocabulary_size=1000,
    tensor_bytes=2 * GIB,
    tensor_types=(("BF16", 2 * GIB),),
)
PLAN = LoadPlan(
    engine=EngineName.VLLM, model_path="/models/m", context_length=4096, threads=2, estimated_bytes=9 * 10**9
)
CPU = Device(on_gpu=False, free_bytes=20 * GIB, total_bytes=24 * GIB)
GPU = Device(on_gpu=True, free_bytes=70 * GIB, total_bytes=80 * GIB)
OPTIONS = SamplingOptions(
    temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, repeat_penalty=1.1, max_tokens=None, seed=3, stop=("x",)
)
PLAIN = replace(OPTIONS, stop=())
TOKEN_BYTES = 4 * 2 * (64 + 64) * 2  # layers, heads, lengths, bf16


def arguments(plan: LoadPlan = PLAN, info: ModelInfo = INFO, device: Device = GPU) -> dict[str, Any]:
    return engine_arguments(plan, info, device, Path(plan.model_path))


def test_a_gpu_is_not_taken_whole_and_nothing_is_compiled() -> None:
    found = arguments()
    assert found["max_model_len"] == 4096
    assert found["gpu_memory_utilization"] == pytest.approx((9 * 10**9 - 4 * 10**9) / (80 * GIB), rel=0.1)
    assert found["compilation_config"] == {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
    assert found["tensor_parallel_size"] == 1
    assert "enforce_eager" not in found


def test_a_share_of_the_gpu_that_is_not_free_is_not_asked_for() -> None:
    crowded = Device(on_gpu=True, free_bytes=20 * GIB, total_bytes=80 * GIB)
    found = arguments(replace(PLAN, estimated_bytes=60 * GIB), device=crowded)
    assert found["gpu_memory_utilization"] <= 20 / 80


def test_several_gpus_share_the_cache() -> None:
    both = arguments(replace(PLAN, gpus=2))
    assert both["tensor_parallel_size"] == 2
    assert both["kv_cache_memory_bytes"] * 2 == pytest.approx(arguments()["kv_cache_memory_bytes"], abs=2)


def test_a_processor_gets_no_arguments_of_gpus() -> None:
    found = arguments(replace(PLAN, gpus=2), device=CPU)
    assert found["enforce_eager"] is True
    assert not {"tensor_parallel_size", "gpu_memory_utilization", "compilation_config"} & set(found)


def test_the_cache_holds_the_context_and_little_more() -> None:
    size = kv_cache_bytes(PLAN, INFO, CPU)
    assert 4096 * TOKEN_BYTES <= size <= (4096 + 512) * TOKEN_BYTES


def test_the_cache_is_larger_for_many_prompts_where_there_is_room() -> None:
    many = replace(PLAN, parallel=32)
    assert kv_cache_bytes(many, INFO, CPU) > 10 * kv_cache_bytes(PLAN, INFO, CPU)
    full = replace(CPU, free_bytes=9 * 10**9)
    assert kv_cache_bytes(many, INFO, full) == kv_cache_bytes(PLAN, INFO, full)


def test_float32_doubles_the_cache() -> None:
    doubled = kv_cache_bytes(replace(PLAN, dtype="float32"), INFO, CPU)
    assert doubled == 2 * kv_cache_bytes(PLAN, INFO, CPU)


def test_layers_with_a_window_are_counted_whole_where_there_is_room() -> None:
    windowed = replace(INFO, sliding_window=512, sliding_window_layers=(True, True, True, False))
    long = replace(PLAN, context_length=65536)
    assert kv_cache_bytes(long, windowed, CPU) == kv_cache_bytes(long, INFO, CPU)
    tight = replace(CPU, free_bytes=2 * GIB)
    assert kv_cache_bytes(long, windowed, tight) < kv_cache_bytes(long, INFO, tight)


def with_config(folder: Path, **values: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_a_longer_context_than_the_trained_one_is_allowed_where_positions_are_plain(tmp_path: Path) -> None:
    folder = with_config(tmp_path, max_position_embeddings=8192, rope_parameters={"rope_type": "default"})
    assert longer_context(PLAN, INFO, folder) == {}
    longer = longer_context(replace(PLAN, context_length=10_000), INFO, folder)
    assert longer == {"hf_overrides": {"max_position_embeddings": 10_000}}


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_scaled_positions_are_not_stretched_further(tmp_path: Path, key: str) -> None:
    folder = with_config(tmp_path, max_position_embeddings=8192, **{key: {"rope_type": "yarn", "factor": 4.0}})
    with pytest.raises(UsageError, match="up to 8,192 tokens") as caught:
        longer_context(replace(PLAN, context_length=10_000), INFO, folder)
    assert caught.value.fix == "--context-length 8192, or --engine pytorch"


@pytest.mark.parametrize(("pickle", "expected"), [(False, "safetensors"), (True, "auto")])
def test_pickles_are_loaded_only_when_asked_for(pickle: bool, expected: str) -> None:
    assert arguments(replace(PLAN, pickle=pickle))["load_format"] == expected


def test_code_of_the_model_runs_only_when_asked_for() -> None:
    assert arguments()["trust_remote_code"] is False
    assert arguments(replace(PLAN, remote_code=True))["trust_remote_code"] is True


def test_guessing_ahead_takes_the_place_of_the_processor() -> None:
    assert arguments()["logits_processors"] == [PROCESSOR]
    guessing = arguments(replace(PLAN, lookup="on"))
    assert "logits_processors" not in guessing
    assert guessing["speculative_config"]["method"] == "ngram"
    assert guessing["skip_tokenizer_init"] is False  # vLLM's own grammars need it


@pytest.mark.parametrize(
    ("plan", "on_gpu", "words"),
    [
        pytest.param(replace(PLAN, quantization="8-bit"), True, "8 bits", id="8-bit"),
        pytest.param(replace(PLAN, quantization="4-bit"), False, "needs a GPU", id="4-bit-on-a-processor"),
        pytest.param(replace(PLAN, draft_path="/d.gguf"), True, "--draft", id="draft"),
    ],
)
def test_what_vllm_cannot_do_is_refused(plan: LoadPlan, on_gpu: bool, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        refuse_unsupported(plan, on_gpu=on_gpu)
    assert caught.value.fix


def test_4_bit_on_a_gpu_is_bitsandbytes() -> None:
    plan = replace(PLAN, quantization="4-bit")
    refuse_unsupported(plan, on_gpu=True)
    assert arguments(plan)["quantization"] == "bitsandbytes"


def test_vllm_gets_the_temperature_and_our_processor_the_rest() -> None:
    given = sampling_arguments(OPTIONS, 10, native=False)
    assert given == {"temperature": 0.7, "seed": 3, "max_tokens": 10, "logprobs": None, "detokenize": False}
    assert extra_arguments(OPTIONS, "/m") == {"repeat_penalty": 1.1, "truncate": [40, 0.9, 0.05]}


@pytest.mark.parametrize("temperature", [0.001, 2.5, 1e5])
def test_a_temperature_that_vllm_does_not_take_is_applied_by_our_processor(temperature: float) -> None:
    options = replace(PLAIN, temperature=temperature)
    assert sampling_arguments(options, 1, native=False)["temperature"] == 1
    assert (extra_arguments(options, "/m") or {})["temperature"] == temperature


def test_greedy_answers_need_no_truncation_and_no_seed() -> None:
    greedy = replace(OPTIONS, temperature=0.0, repeat_penalty=1.0)
    assert sampling_arguments(greedy, 10, native=False)["seed"] is None
    assert extra_arguments(greedy, "/m") is None


def test_a_grammar_travels_with_the_folder_of_its_vocabulary() -> None:
    extra = extra_arguments(replace(OPTIONS, temperature=0.0, repeat_penalty=1.0, grammar='root ::= "a"'), "/m")
    assert extra == {"json_schema": None, "grammar": 'root ::= "a"', "folder": "/m"}


def test_vllms_own_parameters_are_used_while_it_guesses_ahead() -> None:
    given = sampling_arguments(OPTIONS, 10, native=True)
    assert (given["top_p"], given["top_k"], given["repetition_penalty"]) == (0.9, 40, 1.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(replace(OPTIONS, min_p=0, top_k=0, top_p=1), ["--repeat-penalty"], id="penalty"),
        pytest.param(replace(OPTIONS, repeat_penalty=1, top_k=0, top_p=1), ["--min-p"], id="min-p"),
        pytest.param(replace(OPTIONS, repeat_penalty=1, min_p=0), ["--top-k"], id="order"),
        pytest.param(replace(OPTIONS, repeat_penalty=1, min_p=0, temperature=1), [], id="temperature-1"),
        pytest.param(replace(OPTIONS, repeat_penalty=1, temperature=0), [], id="greedy"),
    ],
)
def test_what_means_something_else_while_guessing_is_said(options: SamplingOptions, words: list[str]) -> None:
    notices = native_notices(options)
    assert len(notices) == len(words)
    assert all(word in notice for word, notice in zip(words, notices, strict=True))


PYDANTIC = """1 validation error for ModelConfig
  Value error, Model architectures ['FooForCausalLM'] are not supported for now. [type=value_error, input_value=x]
    For further information visit https://errors.pydantic.dev/2/v/value_error"""


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "logged", "kind", "words"),
    [
        pytest.param(
            ValueError(PYDANTIC),
            "",
            NoUsableEngineError,
            r"\['FooForCausalLM'\] are not supported for now\.$",
            id="arch",
        ),
        pytest.param(
            ValueError("To serve at least one request (2.5 GiB KV cache is needed, more than 1 GiB)"),
            "",
            NotEnoughMemoryError,
            "2.5 GiB KV cache is needed",
            id="cache",
        ),
        pytest.param(
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "", NotEnoughMemoryError, "2 GiB", id="cuda"
        ),
        pytest.param(MemoryError(), "", NotEnoughMemoryError, "MemoryError", id="main-memory"),
        pytest.param(KeyError("model.norm.weight"), "", ModelFileError, "KeyError: 'model.norm.weight'", id="tensor"),
        pytest.param(
            RuntimeError("Engine core initialization failed. See root cause above."),
            "ValueError: shard 2 is missing",
            ModelFileError,
            "shard 2 is missing",
            id="cause-in-the-log",
        ),
        pytest.param(
            caused(RuntimeError("Engine core initialization failed. See root cause above."), OSError("no shard 2")),
            "",
            ModelFileError,
            "no shard 2",
            id="cause-in-the-chain",
        ),
        pytest.param(
            ValueError("Bfloat16 is only supported on GPUs with compute capability of at least 8.0."),
            "",
            NoUsableEngineError,
            "compute capability",
            id="dtype",
        ),
    ],
)
def test_a_failure_to_load_has_its_cause_in_one_line(
    error: Exception, logged: str, kind: type[LlmrunError], words: str
) -> None:
    found = load_error(error, "/models/m", logged)
    assert type(found) is kind
    assert "\n" not in found.message
    assert "core initialization" not in found.message
    assert found.fix
    with pytest.raises(kind, match=words):
        raise found


def test_a_failing_request_says_why_and_a_bug_stays_one() -> None:
    damaged = request_error(RuntimeError(f"worker 1: {NOT_FINITE}"), "/models/m")
    assert isinstance(damaged, ModelFileError)
    assert isinstance(request_error(ValueError("a bad option"), "/m"), UsageError)
    assert request_error(ZeroDivisionError("division by zero"), "/m") is None


def test_the_phases_of_the_start_never_go_back() -> None:
    shares: list[float] = []
    phases: list[str] = []
    logger = logging.getLogger("vllm.core")
    with watch_startup(shares.append, 0) as log:
        phases.append(log.phase)
        for line in ("world_size=1", "Starting to load model m", "Loading weights took 1 s", "GPU KV cache size: 1"):
            logger.info(line)
            phases.append(log.phase)
        logger.info("Starting to load model again")
        logger.error("Traceback\nValueError: a cause\n")
    assert log.phase == "allocating the KV cache"
    assert phases == [
        "importing vLLM",
        "starting the engine",
        "loading weights",
        "preparing the weights",
        "allocating the KV cache",
    ]
    assert shares == sorted(shares)
    assert 0.8 <= shares[-1] < 1
    assert log.last_error == "ValueError: a cause"


def test_the_log_is_quiet_after_the_start() -> None:
    with watch_startup(lambda _share: None, 0):
        assert logging.getLogger("vllm").isEnabledFor(logging.INFO)
    assert not logging.getLogger("vllm").isEnabledFor(logging.WARNING)
