"""Every engine gets a verdict with all its reasons; the choice follows from them."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from llmrun.engines.facts import CRASHES, EngineFacts, assume_engine
from llmrun.engines.model_facts import ModelFacts
from llmrun.engines.reasons import ReasonCode, Severity, Verdict
from llmrun.engines.selection import judge_engines, select_engine
from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo
from llmrun.models.catalogue import find_family
from llmrun.models.types import ModelFormat

GIB = 1 << 30
H200 = GPU(
    vendor=GpuVendor.NVIDIA,
    name="NVIDIA H200",
    total_bytes=140 * GIB,
    free_bytes=138 * GIB,
    compute_capability="9.0",
)
LLAMA_CPP, CTRANSFORMERS = EngineName.LLAMA_CPP, EngineName.CTRANSFORMERS
PYTORCH, VLLM = EngineName.PYTORCH, EngineName.VLLM
REAL = (LLAMA_CPP, CTRANSFORMERS, PYTORCH, VLLM)
LLAMA = ModelFacts(format=ModelFormat.PYTORCH, architecture="LlamaForCausalLM")
GGUF = ModelFacts(format=ModelFormat.GGUF, architecture="llama")


def make_machine(system: str = "linux", *gpus: GPU, memory_bytes: int = 256 * GIB, **cpu: Any) -> Machine:
    facts: dict[str, Any] = {
        "name": "a processor",
        "architecture": "x86_64",
        "physical_cores": 8,
        "logical_cores": 16,
        "affinity": 16,
        "quota": None,
        "isa_flags": frozenset({"avx2"}),
    }
    return Machine(
        system=system,
        python_version="3.12.1",
        cpu=CpuInfo(**(facts | cpu)),
        memory=MemoryInfo(total_bytes=memory_bytes, available_bytes=memory_bytes),
        gpus=gpus,
    )


SERVER, LAPTOP = make_machine("linux", H200), make_machine()


def engines(*installed: EngineName, **changed: EngineFacts) -> dict[EngineName, EngineFacts]:
    found = {engine: assume_engine(engine, installed=engine in installed) for engine in REAL}
    return found | {fact.engine: fact for fact in changed.values()}


ALL = engines(*REAL)


def codes(verdict: Verdict) -> set[str]:
    return {reason.code.value for reason in verdict.objections}


def verdict_of(engine: EngineName, verdicts: tuple[Verdict, ...]) -> Verdict:
    return next(verdict for verdict in verdicts if verdict.engine is engine)


def find_variant(family: str, stored: ModelFormat, billions: float, quantization: str | None = None) -> ModelFacts:
    found = find_family(family)
    variant = next(v for v in found.variants if v.format is stored and v.parameters_billion == billions)
    return ModelFacts.from_variant(found, variant, quantization)


# The table that the rules were given as --------------------------------------------------------------------------

TABLE = list(
    product(
        [ModelFormat.PYTORCH, ModelFormat.GGUF, ModelFormat.GGML],
        [None, "4-bit"],
        ["linux", "windows", "darwin"],
        [True, False],  # a CUDA device
        [True, False],  # vLLM supports the architecture
        [True, False],  # vLLM is installed
        [True, False],  # the format's own engine is installed
    )
)
OWN_ENGINE = {ModelFormat.PYTORCH: PYTORCH, ModelFormat.GGUF: LLAMA_CPP, ModelFormat.GGML: CTRANSFORMERS}


def expected_vllm_codes(
    stored: ModelFormat, quantization: str | None, system: str, cuda: bool, supported: bool, installed: bool
) -> set[str]:
    pytorch = stored is ModelFormat.PYTORCH
    against = {
        "format": not pytorch,
        "quantization": pytorch and quantization is not None,
        "platform": system != "linux",
        "no-gpu": not cuda,
        "architecture": pytorch and not supported,
        "not-installed": not installed,
    }
    return {code for code, applies in against.items() if applies}


@pytest.mark.parametrize(("stored", "quantization", "system", "cuda", "supported", "vllm", "own"), TABLE)
def test_the_condition_table(
    stored: ModelFormat, quantization: str | None, system: str, cuda: bool, supported: bool, vllm: bool, own: bool
) -> None:
    names = {ModelFormat.PYTORCH: "LlamaForCausalLM" if supported else "NewForCausalLM"}
    model = ModelFacts(format=stored, architecture=names.get(stored, "llama"), quantization=quantization)
    machine = make_machine(system, *([H200] if cuda else []))
    engine = OWN_ENGINE[stored]
    facts = engines(*([VLLM] if vllm else []), *([engine] if own else []))

    wanted = expected_vllm_codes(stored, quantization, system, cuda, supported, vllm)
    verdicts = judge_engines(model, machine, facts)
    assert codes(verdict_of(VLLM, verdicts)) == wanted
    assert codes(verdict_of(engine, verdicts)) == (set() if own else {"not-installed"})
    expected = VLLM if not wanted else engine if own else None
    if expected is not None:
        assert select_engine(model, machine, facts).chosen is expected
    else:
        with pytest.raises(NoUsableEngineError):
            select_engine(model, machine, facts)


# Formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "machine", "chosen", "because"),
    [
        pytest.param(GGUF, SERVER, LLAMA_CPP, "the fastest engine for gguf files", id="gguf on a server"),
        pytest.param(GGUF, LAPTOP, LLAMA_CPP, "the fastest engine for gguf files", id="gguf on a laptop"),
        pytest.param(
            ModelFacts(format=ModelFormat.GGML, architecture="llama"),
            LAPTOP,
            CTRANSFORMERS,
            "the engine for files from before GGUF",
            id="ggml",
        ),
        pytest.param(LLAMA, SERVER, VLLM, "the fastest engine for the pytorch format on a CUDA device", id="pytorch"),
        pytest.param(
            LLAMA, LAPTOP, PYTORCH, "vllm needs a CUDA device, and none was found", id="pytorch without a GPU"
        ),
        pytest.param(
            replace(LLAMA, format=ModelFormat.BNB), SERVER, PYTORCH, "the default for the bnb format", id="bnb"
        ),
        *(
            pytest.param(
                replace(LLAMA, format=stored, quantization="Int4"),
                SERVER,
                VLLM,
                f"the fastest engine for the {stored.value} format on a CUDA device",
                id=f"{stored.value} with a GPU",
            )
            for stored in (ModelFormat.GPTQ, ModelFormat.AWQ, ModelFormat.FP8, ModelFormat.FP4)
        ),
        *(
            pytest.param(
                replace(LLAMA, format=stored, quantization="Int4"),
                LAPTOP,
                PYTORCH,
                "vllm needs a CUDA device, and none was found",
                id=f"{stored.value} without a GPU",
            )
            for stored in (ModelFormat.GPTQ, ModelFormat.AWQ, ModelFormat.FP8)
        ),
    ],
)
def test_each_format_has_its_engine(model: ModelFacts, machine: Machine, chosen: EngineName, because: str) -> None:
    selection = select_engine(model, machine, ALL)
    assert (selection.chosen, selection.because) == (chosen, because)
    assert {verdict.engine for verdict in selection.verdicts} == set(REAL)
    assert all(verdict.reasons for verdict in selection.verdicts if not verdict.eligible)


def test_pytorch_is_the_second_choice_for_gguf_where_it_knows_the_architecture() -> None:
    facts = engines(PYTORCH, VLLM)
    selection = select_engine(GGUF, SERVER, facts)
    assert (selection.chosen, selection.because) == (PYTORCH, "llama-cpp is not installed")
    notes = verdict_of(PYTORCH, selection.verdicts).reasons
    assert [(note.code, note.severity) for note in notes] == [(ReasonCode.SLOWER, Severity.NOTE)]
    with pytest.raises(NoUsableEngineError, match="does not read GGUF files of architecture rwkv7") as caught:
        select_engine(replace(GGUF, architecture="rwkv7"), SERVER, facts)
    assert caught.value.fix == "llmrun install llama-cpp"


def test_nvfp4_needs_vllm_and_mxfp4_does_not() -> None:
    with pytest.raises(NoUsableEngineError, match="does not load weights that are stored as NVFP4"):
        select_engine(replace(LLAMA, format=ModelFormat.FP4, quantization="FP4"), LAPTOP, ALL)
    mxfp4 = replace(LLAMA, format=ModelFormat.FP4, quantization="MXFP4")
    assert select_engine(mxfp4, LAPTOP, ALL).chosen is PYTORCH


@pytest.mark.parametrize(
    ("stored", "capability", "chosen"),
    [
        pytest.param(ModelFormat.AWQ, "7.5", VLLM, id="awq on the least that has it"),
        pytest.param(ModelFormat.AWQ, "7.0", PYTORCH, id="awq on less"),
        pytest.param(ModelFormat.GPTQ, "7.0", VLLM, id="gptq asks for less"),
        pytest.param(ModelFormat.FP8, "12.0", VLLM, id="two digits"),
        pytest.param(ModelFormat.AWQ, None, VLLM, id="unknown is no reason"),
    ],
)
def test_kernels_need_a_gpu_that_is_new_enough(stored: ModelFormat, capability: str | None, chosen: EngineName) -> None:
    machine = make_machine("linux", replace(H200, compute_capability=capability))
    selection = select_engine(replace(LLAMA, format=stored, quantization="Int4"), machine, ALL)
    assert selection.chosen is chosen
    assert ("compute-capability" in codes(verdict_of(VLLM, selection.verdicts))) is (chosen is PYTORCH)


# Versions ----------------------------------------------------------------------------------------------------------


def test_baichuan_on_an_h200_is_for_pytorch_because_vllm_dropped_it() -> None:
    model = find_variant("baichuan-chat", ModelFormat.PYTORCH, 13)
    facts = ALL | {VLLM: assume_engine(VLLM, version="0.32.0")}
    selection = select_engine(model, SERVER, facts)
    assert selection.chosen is PYTORCH
    assert selection.because == (
        "vllm no longer supports BaichuanForCausalLM (vLLM 0.32.0); the last version that did is 0.23.0"
    )
    (reason,) = verdict_of(VLLM, selection.verdicts).reasons
    assert (reason.code, reason.fix) == (ReasonCode.DROPPED_BY_VERSION, "python -m pip install 'vllm==0.23.0'")


@pytest.mark.parametrize(
    ("family", "billions", "version", "chosen"),
    [
        pytest.param("llama-2-chat", 7, "0.32.0", VLLM, id="llama-2-chat"),
        pytest.param("llama-2", 13, "0.32.0", VLLM, id="llama-2"),
        pytest.param("vicuna-v1.3", 7, "0.32.0", VLLM, id="vicuna-v1.3"),
        pytest.param("vicuna-v1.5", 7, "0.32.0", VLLM, id="vicuna-v1.5"),
        pytest.param("baichuan", 7, "0.32.0", PYTORCH, id="baichuan"),
        pytest.param("internlm-7b", 7, "0.32.0", PYTORCH, id="internlm"),
        pytest.param("internlm-chat-20b", 20, "0.32.0", PYTORCH, id="internlm-chat-20b"),
        pytest.param("baichuan", 7, "0.23.0", VLLM, id="baichuan on the last version that had it"),
        pytest.param("baichuan-chat", 13, "0.22.1", VLLM, id="baichuan-chat on an older version"),
        pytest.param("internlm-20b", 20, "0.23.0", VLLM, id="internlm-20b on the last version that had it"),
        pytest.param("internlm-chat-7b", 7, "0.24.0", PYTORCH, id="internlm-chat on the first without"),
    ],
)
def test_the_families_of_vllms_list(family: str, billions: float, version: str, chosen: EngineName) -> None:
    facts = ALL | {VLLM: assume_engine(VLLM, version=version)}
    assert select_engine(find_variant(family, ModelFormat.PYTORCH, billions), SERVER, facts).chosen is chosen


def test_an_engine_that_was_asked_knows_better_than_the_table() -> None:
    asked = replace(
        assume_engine(VLLM, version="0.23.0"),
        architectures=frozenset({"NewForCausalLM"}),
        architectures_source="installed",
        last_versions=(("LlamaForCausalLM", "0.23.0"),),
    )
    facts = ALL | {VLLM: asked}
    assert select_engine(replace(LLAMA, architecture="NewForCausalLM"), SERVER, facts).chosen is VLLM
    assert codes(verdict_of(VLLM, judge_engines(LLAMA, SERVER, facts))) == {"dropped-by-version"}


def test_a_version_that_is_too_old_is_no_fix() -> None:
    verdict = verdict_of(VLLM, judge_engines(replace(LLAMA, architecture="MotifForCausalLM"), SERVER, ALL))
    (reason,) = verdict.reasons
    assert reason.detail.endswith("the last version that did is 0.10.2, which is older than llmrun can drive")
    assert reason.fix is None


def test_an_unknown_architecture_is_not_for_vllm_by_itself() -> None:
    unknown = replace(LLAMA, architecture=None)
    selection = select_engine(unknown, SERVER, ALL)
    assert selection.chosen is PYTORCH
    assert codes(verdict_of(VLLM, selection.verdicts)) == {"architecture-unknown"}
    assert select_engine(unknown, SERVER, ALL, forced=VLLM).chosen is VLLM


def test_a_model_with_code_of_its_own_is_noted() -> None:
    verdict = verdict_of(PYTORCH, judge_engines(replace(LLAMA, architecture="InternLMForCausalLM"), LAPTOP, ALL))
    assert verdict.eligible
    assert [(reason.code, reason.severity) for reason in verdict.reasons] == [(ReasonCode.REMOTE_CODE, Severity.NOTE)]


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
    dropped = replace(LLAMA, architecture="BaichuanForCausalLM")
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
