"""Plans: context, threads and layers follow the machine; what does not fit is refused with the numbers."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engines.plan import PlanRequest, check_request, make_plan
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import NotEnoughMemoryError, UsageError
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo
from llmrun.models.types import LocalModel, ModelFormat, ModelInfo, ModelRef, RefKind

GIB = 1 << 30
INFO = ModelInfo(
    format=ModelFormat.GGUF,
    architecture="llama",
    parameters=7_000_000_000,
    quantization="Q4_0",
    context_length=4096,
    layers=32,
    embedding_length=4096,
    heads=32,
    kv_heads=(32,) * 32,
    key_length=128,
    value_length=128,
    vocabulary_size=32000,
    tensor_bytes=4 * GIB,
    tensor_types=(("Q4_0", 4 * GIB),),
)
MODEL = LocalModel(ref=ModelRef(text="m.gguf", kind=RefKind.PATH, name="m.gguf"), path=Path("/models/m.gguf"), files=())


def machine(
    available: int = 64 * GIB,
    cores: int | None = 8,
    affinity: int = 8,
    quota: float | None = None,
    gpu_free: int | None = None,
) -> Machine:
    gpus: tuple[GPU, ...] = ()
    if gpu_free is not None:
        gpus = (GPU(vendor=GpuVendor.NVIDIA, name="test", total_bytes=gpu_free, free_bytes=gpu_free),)
    return Machine(
        system="linux",
        python_version="3.11.0",
        cpu=CpuInfo(
            name=None,
            architecture="x86_64",
            physical_cores=cores,
            logical_cores=16,
            affinity=affinity,
            quota=quota,
            isa_flags=frozenset(),
        ),
        memory=MemoryInfo(total_bytes=64 * GIB, available_bytes=available),
        gpus=gpus,
    )


def plan(m: Machine, **request: object) -> tuple[LoadPlan, tuple[str, ...]]:
    return make_plan(EngineName.LLAMA_CPP, MODEL, INFO, m, PlanRequest(**request))  # type: ignore[arg-type]


def test_all_of_the_trained_context_when_it_fits() -> None:
    made, notices = plan(machine())
    assert (made.context_length, made.context_is_fixed, notices) == (4096, False, ())


def test_less_context_when_memory_is_short_and_it_is_said() -> None:
    made, notices = plan(machine(available=6 * GIB))
    assert 256 <= made.context_length < 4096
    assert made.estimated_bytes <= 0.9 * 6 * GIB
    assert "4,096" in notices[0]


def test_too_large_a_context_is_refused_with_need_available_and_what_fits() -> None:
    with pytest.raises(NotEnoughMemoryError) as caught:
        plan(machine(available=16 * GIB), context_length=10**8)
    message = caught.value.message
    assert "100,000,000 tokens needs" in message
    assert "16.0 GiB are available" in message
    assert caught.value.fix is not None
    fitting = int(caught.value.fix.split()[1])
    assert plan(machine(available=16 * GIB), context_length=fitting)[0].context_length == fitting


@pytest.mark.parametrize("context_length", [10**6, 10**8, 2**32, 2**63])
def test_absurd_contexts(context_length: int) -> None:
    with pytest.raises(NotEnoughMemoryError):
        plan(machine(), context_length=context_length)


def test_weights_that_do_not_fit_at_all() -> None:
    with pytest.raises(NotEnoughMemoryError, match="largest context that fits is 0") as caught:
        plan(machine(available=2 * GIB))
    assert caught.value.fix == "a smaller quantization of the model, or a smaller model"


def test_a_dry_run_needs_no_memory() -> None:
    assert plan(machine(available=GIB), vocabulary_only=True)[0].context_length == 4096


def test_beyond_the_training_is_allowed_and_said() -> None:
    assert "trained for 4,096" in plan(machine(), context_length=8192)[1][0]


@pytest.mark.parametrize(
    ("facts", "threads"),
    [
        pytest.param({"cores": 8, "affinity": 16}, 8, id="physical cores"),
        pytest.param({"cores": 8, "affinity": 3}, 3, id="affinity"),
        pytest.param({"cores": 8, "affinity": 8, "quota": 2.9}, 2, id="quota, rounded down"),
        pytest.param({"cores": 8, "affinity": 8, "quota": 0.5}, 1, id="never none"),
        pytest.param({"cores": None, "affinity": 4}, 4, id="cores unknown"),
    ],
)
def test_threads(facts: dict[str, float | None], threads: int) -> None:
    assert plan(machine(**facts))[0].threads == threads  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("free", "layers"),
    [
        pytest.param(None, 0, id="no GPU"),
        pytest.param(24 * GIB, -1, id="room for all"),
        pytest.param(0, 0, id="full"),
    ],
)
def test_gpu_layers(free: int | None, layers: int) -> None:
    assert plan(machine(gpu_free=free))[0].gpu_layers == layers


def test_some_layers_on_a_small_gpu() -> None:
    assert 0 < plan(machine(gpu_free=4 * GIB))[0].gpu_layers < 32


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"context_length": 0}, id="no context"),
        pytest.param({"context_length": -5}, id="negative context"),
        pytest.param({"threads": 0}, id="no threads"),
        pytest.param({"gpu_layers": -2}, id="negative layers"),
    ],
)
def test_values_no_model_could_honour(request_: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        check_request(PlanRequest(**request_))  # type: ignore[arg-type]


def test_a_smaller_cache_is_offered_where_it_makes_the_context_fit() -> None:
    with pytest.raises(NotEnoughMemoryError) as caught:
        plan(machine(available=6 * GIB), context_length=3072)
    assert caught.value.fix is not None
    assert "--kv-type q8_0 makes room for 3072 tokens" in caught.value.fix
    assert plan(machine(available=6 * GIB), context_length=3072, kv_type="q8_0")[0].context_length == 3072


def test_layers_that_do_not_fit_are_refused_with_both_memories() -> None:
    with pytest.raises(
        NotEnoughMemoryError, match=r"on the GPU 4\.0 GiB are free, and of .* 64\.0 GiB are ava"
    ) as caught:
        plan(machine(gpu_free=4 * GIB), gpu_layers=-1)
    assert "leaving --gpu-layers out" in str(caught.value.fix)


def test_a_context_without_room_for_a_copy_is_made_at_once() -> None:
    """Growing copies what the context holds, and for a moment both are there."""
    made, _ = plan(machine(available=6 * GIB))
    assert made.context_is_fixed
    assert not plan(machine(available=64 * GIB))[0].context_is_fixed


def test_a_path_will_do_for_a_model() -> None:
    assert make_plan(EngineName.LLAMA_CPP, "/m/x.gguf", INFO, machine(), PlanRequest())[0].model_path == "/m/x.gguf"


def test_a_build_without_gpu_support_gets_no_layers() -> None:
    made, _ = make_plan(EngineName.LLAMA_CPP, MODEL, INFO, machine(gpu_free=24 * GIB), PlanRequest(), gpu_support=False)
    assert made.gpu_layers == 0


def test_a_context_cut_for_the_layers_says_so() -> None:
    info = replace(INFO, kv_heads=(8,) * 32, context_length=65536)
    made, notices = make_plan(EngineName.LLAMA_CPP, MODEL, info, machine(gpu_free=12 * GIB), PlanRequest())
    assert made.gpu_layers == -1
    assert f"context length {made.context_length:,} of the 65,536" in notices[0]
    assert "on the GPU" in notices[0]
    asked = PlanRequest(context_length=65536)
    assert 0 < make_plan(EngineName.LLAMA_CPP, MODEL, info, machine(gpu_free=12 * GIB), asked)[0].gpu_layers < 32
