"""Every engine gets a verdict with all its reasons: the seed's table, formats and versions."""

from dataclasses import replace
from itertools import product

import pytest
from selection_cases import (
    ALL,
    CTRANSFORMERS,
    GGUF,
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

from llmrun.engines.installed.facts import assume_engine
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.reasons import ReasonCode, Severity
from llmrun.engines.selection.select import judge_engines, select_engine
from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError
from llmrun.hardware.types import Machine
from llmrun.models.types import ModelFormat

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
    verdict = verdict_of(PYTORCH, judge_engines(replace(LLAMA, architecture="NewForCausalLM"), LAPTOP, ALL))
    assert verdict.eligible
    assert [(reason.code, reason.severity) for reason in verdict.reasons] == [(ReasonCode.REMOTE_CODE, Severity.NOTE)]


@pytest.mark.parametrize(
    "architecture", ["InternLMForCausalLM", "InternLM2ForCausalLM", "BaiChuanForCausalLM", "BaichuanForCausalLM"]
)
def test_old_families_need_no_code_of_their_own(architecture: str) -> None:
    brings = replace(LLAMA, architecture=architecture, remote_code=True)
    verdict = verdict_of(PYTORCH, judge_engines(brings, LAPTOP, ALL))
    assert (verdict.eligible, verdict.reasons) == (True, ())


def test_an_old_family_runs_on_vllm_when_asked_for_from_a_converted_copy() -> None:
    model = replace(LLAMA, architecture="InternLMForCausalLM", remote_code=True)
    facts = ALL | {VLLM: assume_engine(VLLM, version="0.32.0")}
    assert select_engine(model, SERVER, facts).chosen is PYTORCH
    selection = select_engine(model, SERVER, facts, forced=VLLM)
    assert selection.chosen is VLLM
    (reason,) = verdict_of(VLLM, selection.verdicts).reasons
    assert (reason.code, reason.severity) == (ReasonCode.DROPPED_BY_VERSION, Severity.DEMOTES)
    assert reason.detail.endswith("asked for, it runs a converted copy")


@pytest.mark.parametrize(("trusted", "severity"), [(False, Severity.BLOCKS), (True, Severity.DEMOTES)])
def test_vllm_too_needs_a_models_own_code_for_what_it_does_not_know(trusted: bool, severity: Severity) -> None:
    brings = replace(LLAMA, architecture="NewForCausalLM", remote_code=True, trusted=trusted)
    (reason,) = verdict_of(VLLM, judge_engines(brings, SERVER, ALL)).reasons
    assert (reason.code, reason.severity) == (ReasonCode.REMOTE_CODE, severity)
    (reason,) = verdict_of(VLLM, judge_engines(replace(brings, remote_code=False), SERVER, ALL)).reasons
    assert (reason.code, reason.severity) == (ReasonCode.ARCHITECTURE, Severity.BLOCKS)


def test_a_models_own_code_is_run_only_when_asked_for() -> None:
    brings = replace(LLAMA, architecture="NewForCausalLM", remote_code=True)
    verdict = verdict_of(PYTORCH, judge_engines(brings, LAPTOP, ALL))
    assert [(reason.code, reason.severity) for reason in verdict.reasons] == [(ReasonCode.REMOTE_CODE, Severity.BLOCKS)]
    assert "--trust-remote-code" in (verdict.reasons[0].fix or "")
    assert verdict_of(PYTORCH, judge_engines(replace(brings, trusted=True), LAPTOP, ALL)).eligible
