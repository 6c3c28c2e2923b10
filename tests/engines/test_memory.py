"""Memory estimates: the formulas on a model whose numbers are known."""

from dataclasses import replace

import pytest

from llmrun.engines.memory.needs import MemoryPlan, estimate_kv_bytes, estimate_need, largest_context, plan_memory
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo
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


GIB = 1 << 30


def machine(available: int = 64 * GIB, *gpus: GPU) -> Machine:
    return Machine(
        system="linux",
        python_version="3.11.0",
        cpu=CpuInfo(
            name=None,
            architecture="x86_64",
            physical_cores=8,
            logical_cores=16,
            affinity=8,
            quota=None,
            isa_flags=frozenset(),
        ),
        memory=MemoryInfo(total_bytes=64 * GIB, available_bytes=available),
        gpus=gpus,
    )


def gpu(free: int, vendor: GpuVendor = GpuVendor.NVIDIA, *, unified: bool = False) -> GPU:
    return GPU(vendor=vendor, name="test", total_bytes=free, free_bytes=free, unified_memory=unified)


def large(**changes: object) -> ModelInfo:
    """Llama 2 7B in Q4_0: 32 layers, 32 KV heads of 128."""
    values: dict[str, object] = {
        "parameters": 6_738_415_616,
        "layers": 32,
        "embedding_length": 4096,
        "heads": 32,
        "kv_heads": (32,) * 32,
        "key_length": 128,
        "value_length": 128,
        "context_length": 4096,
        "feed_forward_length": 11008,
        "vocabulary_size": 32000,
        "tokenizer_model": "llama",
        "tensor_bytes": 3_825_000_000,
        "tensor_types": (("Q4_0", 3_825_000_000),),
    }
    return model(**(values | changes))


def plan(m: Machine, info: ModelInfo, engine: EngineName = EngineName.LLAMA_CPP, **asked: object) -> MemoryPlan:
    support = asked.pop("gpu_support", None)
    return plan_memory(engine, info, m, PlanRequest(**asked), gpu_support=support)  # type: ignore[arg-type]


def test_heads_of_another_size_in_layers_with_a_window() -> None:
    same = model(sliding_window=512, sliding_window_layers=(True,) * 25 + (False,) * 5)
    other = model(
        sliding_window=512,
        sliding_window_layers=(True,) * 25 + (False,) * 5,
        window_key_length=32,
        window_value_length=96,
    )
    smaller = model(
        sliding_window=512,
        sliding_window_layers=(True,) * 25 + (False,) * 5,
        window_key_length=32,
        window_value_length=32,
    )
    assert estimate_kv_bytes(other, 8192) == estimate_kv_bytes(same, 8192)
    assert estimate_kv_bytes(smaller, 8192) == 3 * 2 * (25 * 1024 * 64 + 5 * 8192 * 128)


def test_states_of_fixed_size_do_not_grow_with_the_context() -> None:
    recurrent = model(kv_heads=(0,) * 30, state_bytes=10**6)
    assert estimate_kv_bytes(recurrent, 256) == estimate_kv_bytes(recurrent, 8192) == 10**6


def test_the_parts_add_up() -> None:
    need = estimate_need(model(), 8192)
    assert need.total_bytes == need.load_bytes + need.compute_bytes
    assert need.load_bytes == need.weights_bytes + need.kv_bytes + need.overhead_bytes
    assert need.weights_bytes == model().tensor_bytes


@pytest.mark.parametrize("engine", [engine for engine in EngineName if engine is not EngineName.FAKE])
def test_every_engine_has_a_plan_that_grows_with_the_context(engine: EngineName) -> None:
    small, full = (plan(machine(), large(), engine, context_length=length) for length in (512, 4096))
    assert small.fits
    assert small.need.total_bytes < full.need.total_bytes
    assert small.main_bytes == small.need.total_bytes
    assert (small.gpu_bytes, small.gpu_free_bytes) == (0, None)
    assert full.largest_context >= 4096


@pytest.mark.parametrize("engine", [EngineName.LLAMA_CPP, EngineName.PYTORCH, EngineName.VLLM])
def test_all_of_it_on_a_large_gpu(engine: EngineName) -> None:
    made = plan(machine(64 * GIB, gpu(80 * GIB)), large(), engine)
    assert (made.fits, made.gpu_layers, made.gpu_free_bytes) == (True, -1, 80 * GIB)
    assert made.main_bytes + made.gpu_bytes == made.need.total_bytes
    assert made.gpu_bytes > large().tensor_bytes


def test_a_build_without_gpu_support_takes_main_memory() -> None:
    made = plan(machine(64 * GIB, gpu(80 * GIB)), large(), gpu_support=False)
    assert (made.gpu_layers, made.gpu_bytes, made.gpu_free_bytes) == (0, 0, None)


def test_what_is_too_large_for_either_memory_is_divided() -> None:
    made = plan(machine(5 * GIB, gpu(4 * GIB)), large())
    assert made.fits
    assert 0 < made.gpu_layers < 32
    assert made.gpu_bytes <= 0.9 * 4 * GIB
    assert made.main_bytes <= 0.9 * 5 * GIB
    assert not plan(machine(5 * GIB), large(), context_length=4096).fits


def test_one_layer_more_would_be_too_much() -> None:
    m = machine(64 * GIB, gpu(4 * GIB))
    chosen = plan(m, large()).gpu_layers
    assert plan(m, large(), gpu_layers=chosen, context_length=4096).fits
    assert not plan(m, large(), gpu_layers=chosen + 1, context_length=4096).fits


@pytest.mark.parametrize(("asked", "layers"), [(0, 0), (7, 7), (33, -1), (-1, -1), (99, -1)])
def test_layers_that_were_asked_for_are_counted(asked: int, layers: int) -> None:
    made = plan(machine(64 * GIB, gpu(80 * GIB)), large(), gpu_layers=asked)
    assert made.gpu_layers == layers
    assert (made.gpu_bytes > 0) is (layers != 0)


def test_several_gpus_add_up_less_a_compute_buffer_each() -> None:
    two = plan(machine(64 * GIB, gpu(6 * GIB), gpu(6 * GIB)), large())
    one = plan(machine(64 * GIB, gpu(12 * GIB)), large())
    assert two.gpu_free_bytes == one.gpu_free_bytes == 12 * GIB
    assert two.gpu_bytes > one.gpu_bytes


@pytest.mark.parametrize(
    ("weights_gib", "gpus"),
    [pytest.param(10, 1, id="one holds it"), pytest.param(100, 2, id="two do"), pytest.param(200, 4, id="four do")],
)
def test_vllm_shares_a_model_between_as_few_gpus_as_hold_it(weights_gib: int, gpus: int) -> None:
    info = replace(large(), heads=32, tensor_bytes=weights_gib * GIB, tensor_types=(("BF16", weights_gib * GIB),))
    made = plan(machine(64 * GIB, *[gpu(80 * GIB, GpuVendor.NVIDIA)] * 4), info, EngineName.VLLM)
    assert (made.gpus, made.fits) == (gpus, True)
    odd = plan(machine(64 * GIB, *[gpu(80 * GIB, GpuVendor.NVIDIA)] * 4), replace(info, heads=3), EngineName.VLLM)
    assert odd.gpus == 1


@pytest.mark.parametrize("engine", [EngineName.PYTORCH])
def test_engines_that_use_one_gpu_take_the_freest(engine: EngineName) -> None:
    assert plan(machine(64 * GIB, gpu(6 * GIB), gpu(20 * GIB)), large(), engine).gpu_free_bytes == 20 * GIB


def test_unified_memory_is_one_pool() -> None:
    m = machine(6 * GIB, gpu(5 * GIB, GpuVendor.APPLE, unified=True))
    made = plan(m, large(), context_length=1024)
    assert (made.gpu_bytes, made.gpu_free_bytes) == (0, None)
    assert made.main_bytes == made.need.total_bytes
    assert made.gpu_layers != 0
    assert not plan(m, large(), context_length=4096).fits


def test_vllm_takes_no_gpu_but_nvidia_and_amd() -> None:
    made = plan(machine(64 * GIB, gpu(80 * GIB, GpuVendor.INTEL)), large(), EngineName.VLLM)
    assert made.gpu_free_bytes is None


def test_experts_are_all_in_memory_and_those_used_decide_the_buffers() -> None:
    dense = estimate_need(large(feed_forward_length=8 * 768), 4096)
    few = estimate_need(large(feed_forward_length=2 * 768), 4096)
    assert dense.weights_bytes == few.weights_bytes
    assert dense.compute_bytes > few.compute_bytes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"format": ModelFormat.GGUF}, 2 * 6_738_415_616, id="a GGUF is unpacked to 16 bits"),
        pytest.param({"format": ModelFormat.AWQ}, 3_825_000_000, id="as stored"),
        pytest.param(
            {"format": ModelFormat.BNB, "quantization": "8-bit", "tensor_types": (("BF16", 1),)},
            6_738_415_616 + 32000 * 4096,
            id="quantized on loading, but not the embeddings",
        ),
        pytest.param(
            {"format": ModelFormat.BNB, "quantization": "4-bit", "tensor_types": (("U8", 2), ("BF16", 1))},
            3_825_000_000,
            id="quantized in the file",
        ),
    ],
)
def test_weights_in_pytorch(changes: dict[str, object], expected: int) -> None:
    assert plan(machine(), large(**changes), EngineName.PYTORCH).need.weights_bytes == expected


def test_float32_takes_twice_the_cache_of_bfloat16() -> None:
    narrow, wide = (
        plan(machine(), large(format=ModelFormat.PYTORCH, tensor_types=((name, 1),)), EngineName.PYTORCH).need
        for name in ("BF16", "F32")
    )
    assert wide.kv_bytes == 2 * narrow.kv_bytes


@pytest.mark.parametrize(
    ("tensor_type", "parameter_bytes", "tokens", "measured"),
    [
        pytest.param("BF16", 2, 1024, 690_300_000, id="bfloat16 1024"),
        pytest.param("BF16", 2, 2048, 731_500_000, id="bfloat16 2048"),
        pytest.param("BF16", 2, 4096, 813_100_000, id="bfloat16 4096"),
        pytest.param("BF16", 2, 8192, 1_149_400_000, id="bfloat16 8192"),
        pytest.param("F32", 4, 1024, 1_027_400_000, id="float32 1024"),
        pytest.param("F32", 4, 4096, 1_343_200_000, id="float32 4096"),
    ],
)
def test_pytorch_as_it_was_measured(tensor_type: str, parameter_bytes: int, tokens: int, measured: int) -> None:
    """torch 2.13.0 with transformers 5.19.0, SmolLM2, high water mark of the process."""
    twin = model(
        format=ModelFormat.PYTORCH,
        feed_forward_length=1536,
        tensor_bytes=parameter_bytes * 134_515_008,
        tensor_types=((tensor_type, 1),),
    )
    need = plan(machine(), twin, EngineName.PYTORCH, context_length=tokens).need
    assert need.total_bytes == pytest.approx(measured, rel=0.10, abs=64 << 20)


@pytest.mark.parametrize(
    ("tokens", "measured"), [pytest.param(1024, 731_600_000, id="1024"), pytest.param(2048, 816_600_000, id="2048")]
)
def test_ctransformers_as_it_was_measured(tokens: int, measured: int) -> None:
    """ctransformers 0.2.27, a llama of random 16-bit weights, high water mark of the process."""
    legacy = model(
        format=ModelFormat.GGML,
        layers=16,
        embedding_length=1024,
        heads=16,
        kv_heads=(16,) * 16,
        vocabulary_size=32000,
        tensor_bytes=542_000_000,
    )
    need = plan(machine(), legacy, EngineName.CTRANSFORMERS, context_length=tokens).need
    assert need.total_bytes == pytest.approx(measured, rel=0.10)


@pytest.mark.parametrize(
    ("free", "asked", "layers", "shortened"),
    [
        pytest.param(24 * GIB, {}, -1, False, id="room for all"),
        pytest.param(12 * GIB, {}, -1, True, id="less context, all layers"),
        pytest.param(12 * GIB, {"gpu_layers": 10}, 10, False, id="layers asked for"),
        pytest.param(5 * GIB, {}, None, False, id="no useful context beside all layers"),
    ],
)
def test_layers_come_before_a_context_that_few_fill(
    free: int, asked: dict[str, int], layers: int | None, shortened: bool
) -> None:
    info = large(kv_heads=(8,) * 32, context_length=65536)
    made = plan(machine(64 * GIB, gpu(free)), info, EngineName.LLAMA_CPP, **asked)
    assert (made.context_length < 65536) is shortened
    assert made.context_length >= 8192
    assert made.gpu_layers == layers if layers is not None else 0 < made.gpu_layers < 33
    assert made.fits
