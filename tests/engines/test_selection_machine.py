"""What machine, build, memory and the user change about the choice."""

from dataclasses import replace

import pytest
from selection_cases import (
    ALL,
    GGUF,
    GIB,
    H200,
    LAPTOP,
    LLAMA,
    LLAMA_CPP,
    PYTORCH,
    REAL,
    SERVER,
    VLLM,
    codes,
    engines,
    find_variant,
    make_machine,
    verdict_of,
)

from llmrun.engines.installed.facts import CRASHES, assume_engine
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.select import judge_engines, select_engine
from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError
from llmrun.hardware.types import GPU, GpuVendor
from llmrun.models.types import ModelFormat

# Machines and builds -----------------------------------------------------------------------------------------------


def test_an_engine_that_crashes_here_is_not_chosen_and_not_honoured() -> None:
    broken = replace(ALL[LLAMA_CPP], health=CRASHES, health_detail="it died of SIGILL")
    facts = ALL | {LLAMA_CPP: broken}
    selection = select_engine(GGUF, LAPTOP, facts)
    assert (selection.chosen, selection.because) == (
        PYTORCH,
        "llama-cpp does not work on this machine: it died of SIGILL",
    )
    with pytest.raises(NoUsableEngineError, match="it died of SIGILL") as caught:
        select_engine(GGUF, LAPTOP, facts, forced=LLAMA_CPP)
    assert caught.value.fix == "llmrun install llama-cpp --rebuild"


AMD = GPU(vendor=GpuVendor.AMD, name="AMD MI300X", total_bytes=192 * GIB, free_bytes=190 * GIB)
APPLE = GPU(vendor=GpuVendor.APPLE, name="Apple M2", total_bytes=None, free_bytes=None)


@pytest.mark.parametrize(
    ("gpu", "system", "accelerator"),
    [
        pytest.param(H200, "linux", "cuda", id="nvidia"),
        pytest.param(AMD, "linux", "rocm", id="amd"),
        pytest.param(APPLE, "darwin", "metal", id="apple"),
    ],
)
def test_a_build_without_the_gpu_is_not_eligible_but_better_than_nothing(
    gpu: GPU, system: str, accelerator: str
) -> None:
    machine = make_machine(system, gpu)
    facts = ALL | {LLAMA_CPP: assume_engine(LLAMA_CPP, gpu_support=False)}
    verdict = verdict_of(LLAMA_CPP, judge_engines(GGUF, machine, facts))
    assert (verdict.eligible, codes(verdict)) == (False, {"gpu-build-missing"})
    assert verdict.reasons[0].fix == f"llmrun install llama-cpp --rebuild --accelerator {accelerator}"
    assert select_engine(GGUF, machine, facts).chosen is PYTORCH
    assert select_engine(GGUF, machine, facts, forced=LLAMA_CPP).chosen is LLAMA_CPP
    alone = select_engine(GGUF, machine, facts, runnable=frozenset({LLAMA_CPP}))
    assert (alone.chosen, alone.because) == (
        LLAMA_CPP,
        "no other engine can run it here; without the GPU, because this build does not support it",
    )


@pytest.mark.parametrize(
    "gpu",
    [
        pytest.param(GPU(vendor=GpuVendor.INTEL, name="Intel", total_bytes=None, free_bytes=None), id="intel"),
        pytest.param(replace(AMD, name="AMD in the processor", total_bytes=GIB // 2), id="a part of main memory"),
    ],
)
def test_a_gpu_for_a_display_asks_for_no_other_build(gpu: GPU) -> None:
    facts = ALL | {LLAMA_CPP: assume_engine(LLAMA_CPP, gpu_support=False)}
    assert verdict_of(LLAMA_CPP, judge_engines(GGUF, make_machine("linux", gpu), facts)).eligible


def test_an_amd_gpu_is_for_pytorch() -> None:
    assert select_engine(LLAMA, make_machine("linux", AMD), ALL).chosen is PYTORCH


def test_vllm_for_the_cpu_runs_for_whoever_asks_for_it() -> None:
    facts = ALL | {VLLM: assume_engine(VLLM, gpu_support=False)}
    assert select_engine(LLAMA, LAPTOP, facts).chosen is PYTORCH
    assert select_engine(LLAMA, LAPTOP, facts, forced=VLLM).chosen is VLLM
    with pytest.raises(NoUsableEngineError, match="needs a CUDA device"):  # the CUDA build cannot start
        select_engine(LLAMA, LAPTOP, ALL, forced=VLLM)


def test_a_driver_that_does_not_answer_is_named() -> None:
    machine = replace(LAPTOP, problems=("NVML: no answer within 8 s; NVIDIA GPUs are left out",))
    (reason,) = verdict_of(VLLM, judge_engines(LLAMA, machine, ALL)).reasons
    assert "NVML: no answer within 8 s" in reason.detail
    assert reason.fix == "mend the NVIDIA driver: nvidia-smi must answer"


def test_ctransformers_has_no_libraries_for_arm() -> None:
    ggml = ModelFacts(format=ModelFormat.GGML)
    with pytest.raises(NoUsableEngineError, match="has libraries for x86_64 only, and this is arm64"):
        select_engine(ggml, make_machine(architecture="arm64"), ALL)


# Memory ------------------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_a_reason_with_both_numbers() -> None:
    small = make_machine(memory_bytes=2 * GIB)
    model = find_variant("llama-2-chat", ModelFormat.GGUF, 7, "Q4_K_M")
    with pytest.raises(NoUsableEngineError, match=r"needs 4\.0 GiB for the weights, and may take 90% of 2\.0 GiB"):
        select_engine(model, small, ALL)
    assert select_engine(model, make_machine(memory_bytes=8 * GIB), ALL).chosen is LLAMA_CPP
    # Unpacked to 16 bits they are larger.
    assert codes(verdict_of(PYTORCH, judge_engines(model, make_machine(memory_bytes=8 * GIB), ALL))) == {"memory"}


def test_vllm_wants_the_weights_on_the_gpu_and_llama_cpp_takes_both() -> None:
    desktop = make_machine("linux", replace(H200, name="RTX 3060", free_bytes=12 * GIB), memory_bytes=16 * GIB)
    selection = select_engine(replace(LLAMA, weights_bytes=14 * GIB), desktop, ALL)
    assert selection.chosen is PYTORCH
    assert codes(verdict_of(VLLM, selection.verdicts)) == {"memory"}
    assert select_engine(replace(GGUF, weights_bytes=24 * GIB), desktop, ALL).chosen is LLAMA_CPP


def test_a_gpu_that_does_not_say_what_is_free_is_no_reason() -> None:
    machine = make_machine("linux", replace(H200, free_bytes=None), memory_bytes=GIB)
    assert select_engine(replace(LLAMA, weights_bytes=14 * GIB), machine, ALL).chosen is VLLM


# What the user asked for, and what can be driven -------------------------------------------------------------------


def test_a_forced_engine_that_cannot_work_says_all_its_reasons_and_the_first_useful_fix() -> None:
    with pytest.raises(NoUsableEngineError) as caught:
        select_engine(GGUF, make_machine("windows"), engines(), forced=VLLM)
    assert caught.value.message == (
        "vllm cannot run this model here: vllm does not read gguf; vllm needs Linux, and this is windows; "
        "vllm needs a CUDA device, and none was found; vllm is not installed"
    )
    assert caught.value.fix is None  # installing it would not help
    dropped = replace(LLAMA, architecture="BaichuanForCausalLM", parameters=13_000_000_000)
    with pytest.raises(NoUsableEngineError, match="is not installed") as caught:
        select_engine(dropped, SERVER, engines(), forced=VLLM)
    assert caught.value.fix == "python -m pip install 'vllm==0.23.0'"


def test_a_forced_engine_that_is_not_the_best_is_honoured() -> None:
    for model, engine in ((GGUF, PYTORCH), (LLAMA, PYTORCH)):
        selection = select_engine(model, SERVER, ALL, forced=engine)
        assert (selection.chosen, selection.because) == (engine, "asked for with --engine")
        assert len(selection.verdicts) == len(REAL)


def test_nothing_installed_says_what_to_install() -> None:
    with pytest.raises(NoUsableEngineError, match="is not installed") as caught:
        select_engine(GGUF, LAPTOP, engines())
    assert caught.value.fix == "llmrun install llama-cpp"
    with pytest.raises(NoUsableEngineError) as caught:
        select_engine(GGUF, LAPTOP, {})
    assert caught.value.fix == "llmrun install llama-cpp"


def test_an_engine_that_cannot_be_driven_is_not_started() -> None:
    only = frozenset({LLAMA_CPP})
    assert select_engine(GGUF, SERVER, ALL, runnable=only).chosen is LLAMA_CPP
    with pytest.raises(NoUsableEngineError, match="vllm is not driven by this version of llmrun"):
        select_engine(LLAMA, SERVER, ALL, runnable=only)
    with pytest.raises(NoUsableEngineError, match="is not driven by this version"):
        select_engine(LLAMA, SERVER, ALL, forced=VLLM, runnable=only)
    assert codes(verdict_of(VLLM, judge_engines(LLAMA, SERVER, ALL, only))) == {"no-adapter"}


def test_the_fake_engine_is_never_judged() -> None:
    selection = select_engine(LLAMA, LAPTOP, {}, forced=EngineName.FAKE, runnable=frozenset())
    assert (selection.chosen, selection.verdicts) == (EngineName.FAKE, ())


def test_all_the_catalogue_can_be_judged() -> None:
    from llmrun.models.catalogue import families

    for family in families():
        for variant in family.variants:
            model = ModelFacts.from_variant(family, variant, variant.quantizations[0])
            assert model.weights_bytes
            for machine in (SERVER, LAPTOP):
                verdicts = judge_engines(replace(model, weights_bytes=None), machine, ALL)
                if variant.format is not ModelFormat.FP4:  # which wants vLLM
                    assert any(verdict.eligible for verdict in verdicts), (family.name, variant)
