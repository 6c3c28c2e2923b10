"""The forecast of speed: which of two is faster, and why; figures only where they were measured elsewhere."""

import dataclasses
from typing import Any

import pytest
from speed_cases import (
    AMX,
    DESKTOP,
    LARGE,
    LLAMA_CPP,
    MIB,
    Q4_0,
    Q4_K_M,
    Q8_0,
    cpu,
    decode,
    forecast,
    large,
    load,
    model,
)

from llmrun.engines.speed.forecast import fast_kernels, forecast_speed
from llmrun.engines.speed.kernels import NO_KERNELS, Kernel, find_kernel, own_kernels
from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine
from llmrun.models.types import ModelFormat, ModelInfo


@pytest.mark.parametrize(
    ("info", "measured", "measured_prefill"),
    [
        pytest.param(Q4_K_M, 30, 127, id="Q4_K_M"),
        pytest.param(Q8_0, 41, 651, id="Q8_0"),
        pytest.param(Q4_0, 60, 583, id="Q4_0"),
    ],
)
def test_what_was_measured_with_amx(info: ModelInfo, measured: float, measured_prefill: float) -> None:
    answer = forecast(info, load(AMX), kernels=NO_KERNELS)
    assert answer.decode_tokens_per_second == pytest.approx(measured, rel=0.25)
    assert answer.prefill_tokens_per_second == pytest.approx(measured_prefill, rel=0.15)


def test_a_larger_file_can_be_the_faster_one_and_the_reason_is_said() -> None:
    slow, fast = (forecast(info, load(AMX), kernels=NO_KERNELS) for info in (Q4_K_M, Q8_0))
    assert Q4_K_M.tensor_bytes < Q8_0.tensor_bytes
    assert slow.decode_tokens_per_second < fast.decode_tokens_per_second
    assert slow.prefill_tokens_per_second is not None
    assert fast.prefill_tokens_per_second is not None
    assert slow.prefill_tokens_per_second < 0.5 * fast.prefill_tokens_per_second
    assert (slow.limit, slow.slow_types) == ("no fast kernel for Q5_0 in this build", ("Q5_0",))
    assert (fast.limit, fast.slow_types) == ("memory bandwidth", ())


@pytest.mark.parametrize(
    ("type_name", "size_mib", "threads", "measured"),
    [
        pytest.param("F16", 556, 1, 44.9, id="F16-1"),
        pytest.param("F16", 556, 2, 56.5, id="F16-2"),
        pytest.param("Q8_0", 295.6, 1, 69.9, id="Q8_0-1"),
        pytest.param("Q8_0", 295.6, 2, 92.3, id="Q8_0-2"),
        pytest.param("Q6_K", 228.2, 1, 83.3, id="Q6_K-1"),
        pytest.param("Q6_K", 228.2, 2, 104.6, id="Q6_K-2"),
        pytest.param("Q5_0", 191.3, 1, 54.8, id="Q5_0-1"),
        pytest.param("Q5_0", 191.3, 2, 92.1, id="Q5_0-2"),
        pytest.param("Q4_1", 174, 1, 54.9, id="Q4_1-1"),
        pytest.param("Q4_1", 174, 2, 90.8, id="Q4_1-2"),
        pytest.param("Q4_K", 156.6, 1, 139.5, id="Q4_K-1"),
        pytest.param("Q4_K", 156.6, 2, 177.0, id="Q4_K-2"),
        pytest.param("Q4_0", 156.6, 1, 115.4, id="Q4_0-1"),
        pytest.param("Q4_0", 156.6, 2, 164.6, id="Q4_0-2"),
    ],
)
def test_what_was_measured_on_the_reference_processor(
    type_name: str, size_mib: float, threads: int, measured: float
) -> None:
    zen4 = dataclasses.replace(
        cpu("avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16"), affinity=threads, physical_cores=2
    )
    machine = load(AMX, cpu=zen4, memory_bandwidth_bytes_per_second=31.7e9)
    shape = {"parameters": 291_000_000, "embedding_length": 1024, "vocabulary_size": 4096}
    assert decode(model((type_name, size_mib), **shape), machine) == pytest.approx(measured, rel=0.2)


def test_fast_kernels_of_every_kind_of_processor() -> None:
    avx2 = fast_kernels(cpu("avx", "avx2"))
    avx512 = fast_kernels(cpu("avx", "avx2", "avx512f"))
    amx = fast_kernels(load(AMX).cpu)
    arm = fast_kernels(cpu("asimd", "asimddp", architecture="arm64"))
    assert {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q8_0", "F16"} <= avx2
    assert not avx2 & {"Q2_K", "Q4_1", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q3_K"}
    assert avx512 == avx2 | {"Q2_K"}
    assert amx >= avx512 | {"Q4_1", "Q5_K", "Q6_K", "IQ4_XS"}
    assert not amx & {"Q5_0", "Q5_1", "Q3_K"}
    assert {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"} <= arm
    assert not arm & {"Q2_K", "Q4_1", "Q5_0", "Q5_1"}
    assert fast_kernels(cpu("asimd", architecture="arm64")) == frozenset()
    assert fast_kernels(load("laptop-without-avx2").cpu) == frozenset()


@pytest.mark.parametrize(
    ("type_name", "flags", "expected"),
    [
        pytest.param("Q4_0", ("amx_int8", "avx512_vnni", "avx512f", "avx2", "avx"), Kernel.AMX, id="amx"),
        pytest.param("Q4_0", ("amx_int8", "avx2", "avx"), Kernel.REPACKED, id="amx-needs-vnni"),
        pytest.param("Q2_K", ("avx2", "avx"), Kernel.DOT_PRODUCT, id="Q2_K-needs-avx512"),
        pytest.param("Q8_0", ("avx2", "avx"), Kernel.DIRECT, id="nothing-to-unpack"),
        pytest.param("Q8_0", ("avx",), Kernel.DOT_PRODUCT, id="avx"),
        pytest.param("TQ2_0", ("avx",), Kernel.SCALAR, id="ternary-needs-avx2"),
        pytest.param("Q4_0", ("sse2",), Kernel.SCALAR, id="sse2"),
        pytest.param("Q8_K", ("avx2", "avx"), Kernel.SCALAR, id="no-weights"),
    ],
)
def test_find_kernel(type_name: str, flags: tuple[str, ...], expected: Kernel) -> None:
    assert find_kernel(type_name, cpu(*flags)) is expected


def test_an_engine_from_before_repacking_has_no_repacked_kernels() -> None:
    assert find_kernel("Q4_0", load(AMX).cpu, repack=False) is Kernel.DOT_PRODUCT
    assert decode(Q4_0, load(AMX), EngineName.CTRANSFORMERS) < decode(Q4_0, load(AMX))
    assert forecast(Q4_0, load(AMX), EngineName.CTRANSFORMERS).prefill_tokens_per_second is None


def test_more_bandwidth_is_faster() -> None:
    rates = [decode(Q8_0, load(AMX, memory_bandwidth_bytes_per_second=value)) for value in (1e10, 2e10, 4e10)]
    assert rates == sorted(set(rates))


def test_more_cores_are_faster_where_the_kernel_is_slow() -> None:
    machine = load(AMX)
    one = load(AMX, cpu=dataclasses.replace(machine.cpu, affinity=1))
    assert decode(Q4_K_M, one, kernels=NO_KERNELS) < 0.7 * decode(Q4_K_M, machine, kernels=NO_KERNELS)


VNNI = ("avx", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni")


@pytest.mark.parametrize(
    ("type_name", "size_mib", "measured", "measured_prefill"),
    [
        pytest.param("Q4_0", 157.5, 156, 440, id="Q4_0"),
        pytest.param("Q4_1", 175.3, 138, 406, id="Q4_1"),
        pytest.param("Q5_0", 193.0, 131, 433, id="Q5_0"),
        pytest.param("Q5_1", 210.8, 116, 402, id="Q5_1"),
        pytest.param("Q8_0", 299.6, 90, 452, id="Q8_0"),
    ],
)
def test_what_was_measured_with_kernels_of_our_own_on_one_core(
    type_name: str, size_mib: float, measured: float, measured_prefill: float
) -> None:
    zen4 = dataclasses.replace(cpu(*VNNI), affinity=1)
    machine = load(AMX, cpu=zen4, memory_bandwidth_bytes_per_second=31.7e9)
    shape = {"parameters": 294_000_000, "embedding_length": 1024, "vocabulary_size": 4096}
    answer = forecast(model((type_name, size_mib), **shape), machine)
    assert answer.decode_tokens_per_second == pytest.approx(measured, rel=0.1)
    assert answer.prefill_tokens_per_second == pytest.approx(measured_prefill, rel=0.1)


def test_kernels_of_our_own_are_for_avx512_vnni() -> None:
    assert own_kernels(cpu(*VNNI)) == {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
    assert own_kernels(cpu(*VNNI[:-1])) == NO_KERNELS
    assert own_kernels(cpu(*VNNI, architecture="arm64")) == NO_KERNELS
    assert find_kernel("Q5_0", cpu(*VNNI), own_kernels(cpu(*VNNI))) is Kernel.OWN
    assert find_kernel("Q4_K", cpu(*VNNI), own_kernels(cpu(*VNNI))) is Kernel.REPACKED
    assert find_kernel("Q4_0", load(AMX).cpu, own_kernels(load(AMX).cpu)) is Kernel.AMX
    assert fast_kernels(cpu(*VNNI), own_kernels(cpu(*VNNI))) >= {"Q4_1", "Q5_0", "Q5_1"}


def test_a_build_without_kernels_of_our_own_is_slower_and_says_where_it_lies() -> None:
    machine, avx2 = (
        load(AMX, cpu=dataclasses.replace(cpu(*flags), affinity=2), memory_bandwidth_bytes_per_second=31.7e9)
        for flags in (VNNI, ("avx", "avx2"))
    )
    with_kernels, without = forecast(Q4_K_M, machine), forecast(Q4_K_M, machine, kernels=NO_KERNELS)
    assert with_kernels.own_kernels == ("Q5_0", "Q8_0")
    assert with_kernels.limit == "memory bandwidth"
    assert without.own_kernels == ()
    assert without.limit == "no fast kernel for Q5_0 in this build"
    assert with_kernels.decode_tokens_per_second > 1.3 * without.decode_tokens_per_second
    assert forecast(Q4_K_M, avx2).limit == "no fast kernel for Q5_0 on this CPU"
    assert forecast(Q4_K_M, avx2).own_kernels == ()


@pytest.mark.parametrize("options", [{"tuned": False}, {"kernels": NO_KERNELS}], ids=["not-tuned", "without"])
def test_kernels_that_a_build_cannot_have_do_not_count(options: Any) -> None:
    assert forecast(Q4_0, load(AMX, cpu=cpu(*VNNI)), **options).own_kernels == ()
    assert forecast(Q4_0, load(AMX), EngineName.CTRANSFORMERS, **options).own_kernels == ()


@pytest.mark.parametrize(
    ("engine", "machine", "options"),
    [
        pytest.param(LLAMA_CPP, load("container-2-cores-2gib"), {}, id="main-memory"),
        pytest.param(LLAMA_CPP, load("t4-cloud-vm"), {"gpu_layers": 3}, id="main-memory-of-a-part"),
        pytest.param(EngineName.PYTORCH, load("container-2-cores-2gib"), {}, id="pytorch"),
        pytest.param(EngineName.VLLM, load(AMX), {}, id="vllm-without-a-gpu"),
        pytest.param(LLAMA_CPP, load("laptop-without-avx2"), {"gpu_layers": -1}, id="gpu-of-unknown-bandwidth"),
    ],
)
def test_no_forecast_without_the_bandwidth(engine: EngineName, machine: Machine, options: Any) -> None:
    assert forecast_speed(engine, Q4_0, machine, **options) is None


def test_no_forecast_for_a_model_without_tensors() -> None:
    assert forecast_speed(LLAMA_CPP, model(), load(AMX)) is None


def test_main_memory_does_not_matter_when_all_layers_are_on_the_gpu() -> None:
    assert load("t4-cloud-vm").memory_bandwidth_bytes_per_second is None
    assert forecast(LARGE, load("t4-cloud-vm"), gpu_layers=-1).limit == "GPU memory bandwidth"


def test_some_layers_on_the_gpu_are_between_none_and_all() -> None:
    rates = [decode(LARGE, load(DESKTOP), gpu_layers=layers) for layers in (0, 8, 16, 24, 32)]
    assert rates == sorted(set(rates))
    assert rates[-1] == decode(LARGE, load(DESKTOP), gpu_layers=-1) == decode(LARGE, load(DESKTOP), gpu_layers=99)
    assert forecast(LARGE, load(DESKTOP), gpu_layers=16).limit != "GPU memory bandwidth"
    assert forecast(LARGE, load(DESKTOP), gpu_layers=16).prefill_tokens_per_second is None


@pytest.mark.parametrize("engine", [LLAMA_CPP, EngineName.PYTORCH])
def test_an_engine_without_gpu_support_runs_on_the_cpu(engine: EngineName) -> None:
    without = decode(LARGE, load(DESKTOP), engine, gpu_layers=-1, gpu_support=False)
    assert without == decode(LARGE, load(DESKTOP), engine)
    assert without < decode(LARGE, load(DESKTOP), engine, gpu_layers=-1)


@pytest.mark.parametrize(
    ("info", "bandwidth", "measured"),
    [
        pytest.param(large(("Q4_0", 4100), ("Q6_K", 345)), 936e9, 155, id="rtx-3090"),
        pytest.param(large(("Q4_0", 4100), ("Q6_K", 345)), 1e15, 1250, id="only-launches-are-left"),
    ],
)
def test_published_figures_of_gpus(info: ModelInfo, bandwidth: float, measured: float) -> None:
    machine = load(DESKTOP)
    gpu = dataclasses.replace(machine.gpus[0], memory_bandwidth_bytes_per_second=bandwidth)
    answer = forecast(info, dataclasses.replace(machine, gpus=(gpu,)), gpu_layers=-1)
    assert answer.decode_tokens_per_second == pytest.approx(measured, rel=0.15)


def test_published_figures_of_an_apple_gpu() -> None:
    machine = load("apple-m4-max")
    gpu = dataclasses.replace(machine.gpus[0], memory_bandwidth_bytes_per_second=800e9)
    tiny = model(("Q4_K", 520), ("Q6_K", 116), parameters=1_100_000_000, layers=22, vocabulary_size=32_003)
    answer = forecast(tiny, dataclasses.replace(machine, gpus=(gpu,)), gpu_layers=-1)
    assert answer.decode_tokens_per_second == pytest.approx(243, rel=0.15)
    assert answer.limit == "launching kernels"


def test_the_cores_of_an_apple_chip_do_not_reach_what_its_gpu_reaches() -> None:
    for name in ("apple-m2-8gb", "apple-m4-max"):
        machine = load(name)
        assert decode(LARGE, machine) < decode(LARGE, machine, gpu_layers=-1)
        measured = dataclasses.replace(machine, memory_bandwidth_bytes_per_second=2e10)
        assert decode(LARGE, measured) < 0.6 * decode(LARGE, machine)
        assert decode(LARGE, dataclasses.replace(machine, memory_bandwidth_bytes_per_second=None)) == decode(
            LARGE, machine
        )


def test_only_the_experts_that_are_used_are_read() -> None:
    experts = {"experts": 8, "experts_used": 2, "expert_bytes": 3600 * MIB, "vocabulary_size": 0}
    sparse = large(("Q4_K", 4000), **experts)
    dense = large(("Q4_K", 4000 - 3600 * 6 / 8), vocabulary_size=0)
    assert decode(sparse, load(AMX)) == pytest.approx(decode(dense, load(AMX)))


def test_experts_of_two_types() -> None:
    experts = {"experts": 4, "experts_used": 1, "expert_bytes": 4400 * MIB, "vocabulary_size": 0}
    sparse = large(("Q6_K", 600), ("Q4_K", 4000), **experts)
    dense = large(("Q4_K", 1000), ("Q6_K", 300), vocabulary_size=0)
    assert decode(sparse, load(AMX)) == pytest.approx(decode(dense, load(AMX)))


def test_a_table_of_embeddings_of_its_own_is_not_read() -> None:
    with_table = large(("F16", 8_030_000_000 * 2 / MIB))
    without = large(("F16", (8_030_000_000 - 128_256 * 4096) * 2 / MIB), vocabulary_size=0)
    assert decode(with_table, load(AMX)) == pytest.approx(decode(without, load(AMX)), rel=1e-6)


def test_a_table_that_is_also_the_output_is_read() -> None:
    assert decode(Q8_0, load(AMX)) == decode(dataclasses.replace(Q8_0, vocabulary_size=0), load(AMX))


@pytest.mark.parametrize(
    ("types", "measured"),
    [pytest.param(("F32", 513), 22, id="float32"), pytest.param(("BF16", 256.5), 17, id="bfloat16")],
)
def test_pytorch_as_it_was_measured(types: tuple[str, float], measured: float) -> None:
    smollm2 = model(types, format=ModelFormat.PYTORCH, parameters=134_515_008, layers=30, embedding_length=576)
    answer = forecast(smollm2, load(AMX), EngineName.PYTORCH)
    assert answer.decode_tokens_per_second == pytest.approx(measured, rel=0.15)


def test_pytorch_reads_an_unpacked_gguf() -> None:
    unpacked = model(("BF16", 2 * 494_000_000 / MIB), format=ModelFormat.PYTORCH)
    packed = model(("Q8_0", 494_000_000 * 34 / 32 / MIB))
    assert decode(packed, load(AMX), EngineName.PYTORCH) == pytest.approx(
        decode(unpacked, load(AMX), EngineName.PYTORCH), rel=1e-6
    )


def test_pytorch_on_a_gpu_waits_for_its_own_dispatching() -> None:
    small = forecast(Q8_0, load("h200-server"), EngineName.PYTORCH, gpu_layers=-1)
    big = forecast(
        large(("BF16", 130_000), parameters=70_000_000_000, layers=80),
        load("h200-server"),
        EngineName.PYTORCH,
        gpu_layers=-1,
    )
    assert small.limit == "launching kernels"
    assert 10 < big.decode_tokens_per_second < 40


def test_vllm_is_faster_than_pytorch_on_the_same_gpu() -> None:
    server = load("h200-server")
    info = large(("BF16", 15_000), format=ModelFormat.PYTORCH)
    assert decode(info, server, EngineName.VLLM) > 2 * decode(info, server, EngineName.PYTORCH, gpu_layers=-1)


def test_a_build_for_many_processors_does_without_their_newest_instructions() -> None:
    generic = forecast(Q8_0, load(AMX), tuned=False)
    tuned = forecast(Q8_0, load(AMX), tuned=True)
    assert tuned == forecast(Q8_0, load(AMX))
    assert generic.decode_tokens_per_second <= tuned.decode_tokens_per_second
    assert generic.prefill_tokens_per_second is not None
    assert tuned.prefill_tokens_per_second is not None
    assert generic.prefill_tokens_per_second < 0.5 * tuned.prefill_tokens_per_second


def test_instruction_sets_that_could_not_be_read_are_taken_to_be_the_usual_ones() -> None:
    machine = load(AMX)
    unread = load(AMX, cpu=dataclasses.replace(machine.cpu, isa_flags=frozenset()))
    assert decode(Q4_0, unread) == decode(Q4_0, machine, tuned=False)


@pytest.mark.parametrize("engine", [LLAMA_CPP, EngineName.PYTORCH])
def test_layers_for_a_gpu_that_is_not_there_stay_on_the_cpu(engine: EngineName) -> None:
    assert forecast(Q4_0, load(AMX), engine, gpu_layers=-1) == forecast(Q4_0, load(AMX), engine)


@pytest.mark.parametrize(
    ("type_name", "size_mib", "measured"),
    [
        pytest.param("F16", 556, 302, id="F16"),
        pytest.param("Q8_0", 295.6, 336, id="Q8_0"),
        pytest.param("Q6_K", 228.2, 639, id="Q6_K"),
        pytest.param("Q5_0", 191.3, 253, id="Q5_0"),
        pytest.param("Q4_1", 174, 159, id="Q4_1"),
        pytest.param("Q4_K", 156.6, 550, id="Q4_K"),
        pytest.param("Q4_0", 156.6, 422, id="Q4_0"),
    ],
)
def test_prefill_as_measured_on_the_reference_processor(type_name: str, size_mib: float, measured: float) -> None:
    zen4 = dataclasses.replace(cpu("avx", "avx2", "avx512f", "avx512_vnni"), physical_cores=2)
    machine = load(AMX, cpu=zen4, memory_bandwidth_bytes_per_second=31.7e9)
    shape = {"parameters": 291_000_000, "embedding_length": 1024, "vocabulary_size": 4096}
    answer = forecast(model((type_name, size_mib), **shape), machine)
    assert answer.prefill_tokens_per_second == pytest.approx(measured, rel=0.1)


def test_the_gpu_with_the_most_free_memory_counts() -> None:
    machine = load(DESKTOP)
    slow = dataclasses.replace(machine.gpus[0], free_bytes=1, memory_bandwidth_bytes_per_second=1e9)
    both = dataclasses.replace(machine, gpus=(slow, machine.gpus[0]))
    assert decode(LARGE, both, gpu_layers=-1) == decode(LARGE, machine, gpu_layers=-1)
