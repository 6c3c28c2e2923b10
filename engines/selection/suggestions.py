"""What would be better than the answer that was found: a variant that fits, a faster one, an engine to install.

Pure: estimates from headers, the catalogue and the machine. A gain is named only where both sides were estimated by
the same rules, and only when it is too large to be an error of the estimate.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmrun.engines.measure.speeds import MeasuredSpeed, faster_sibling
from llmrun.engines.selection.judgement import Judgement
from llmrun.engines.selection.reasons import ReasonCode, Severity, Verdict
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import Subject
from llmrun.engines.selection.variants import choose_variant, estimate_bits, fits_machine
from llmrun.engines.speed.forecast import forecast_speed
from llmrun.engines.types import EngineName
from llmrun.models.types import ModelFormat, ModelInfo, RefKind

__all__ = ["Suggestion", "suggest"]

_LEAST_GAIN = 1.25
_INSTALLABLE = frozenset({ReasonCode.NOT_INSTALLED, ReasonCode.GPU_BUILD_MISSING})
_FASTER_TYPES = ("Q8_0", "Q4_0")  # with kernels of their own on most processors; the better one first
# Prompt processing and decoding on llama.cpp against ctransformers, by file type. Source: processor time of one thread,
# best of four alternating runs, 272 million random weights on an AMD EPYC (Zen 4), both files the same bytes.
_GAINS_OF_GGUF = {"Q4_0": (3.5, 1.5), "Q8_0": (2.2, 1.1), "Q4_K": (3.7, 1.5)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One thing to do.

    Attributes:
        text: What would be gained.
        command: What to type, or None.
    """

    text: str
    command: str | None = None


def suggest(judgement: Judgement, setting: Setting) -> tuple[Suggestion, ...]:
    """Return what would be better, the most useful first; empty when nothing is known to be."""
    if judgement.chosen is None:
        return tuple(_variants_that_fit(judgement, setting))
    faster = tuple(_faster_build(judgement, setting)) or tuple(_faster_quantization(judgement, setting))
    return (*_conversion(judgement), *_measured_siblings(judgement, setting), *_engines_to_install(judgement), *faster)


def _conversion(judgement: Judgement) -> Iterator[Suggestion]:
    """Say what a llama of the time before GGUF would gain from being one."""
    subject = judgement.subject
    if subject.facts.format is not ModelFormat.GGML or subject.facts.architecture != "llama":
        return
    quantization = (subject.facts.quantization or "").upper()
    gain = _GAINS_OF_GGUF.get(quantization) or _GAINS_OF_GGUF.get(quantization[:4])
    speed = f"; measured for {quantization}: prompts {gain[0]}x, answers {gain[1]}x as fast" if gain else ""
    yield Suggestion(text=f"as a GGUF it runs on llama-cpp{speed}", command=_way_to_gguf(subject))


def _measured_siblings(judgement: Judgement, setting: Setting) -> Iterator[Suggestion]:
    """Name another quantization of the model that was measured here, and answers really faster."""
    subject, chosen = judgement.subject, judgement.chosen
    own = None if chosen is None else judgement.speeds.get(chosen)
    if chosen is None or own is None or subject.model is None or subject.info is None:
        return
    from llmrun.engines.measure.store import find_siblings

    found = find_siblings(subject.model, subject.info, setting.engines[chosen], setting.machine)
    best = faster_sibling(own, [sibling.speed for sibling in found])
    if best is None:
        return
    sibling = next(sibling for sibling in found if sibling.speed is best)
    here, there = _told(own, subject.info.quantization), _told(best, sibling.quantization)
    yield Suggestion(
        text=f"the same model was measured to be faster here as {there} than as {here}, on {best.created}",
        command=f"llmrun run {sibling.reference}",
    )


def _told(speed: MeasuredSpeed, quantization: str | None) -> str:
    return f"{quantization} ({speed.decode_mean:.1f} tokens/s, prompts {speed.prefill_mean:,.0f})"


def _way_to_gguf(subject: Subject) -> str:
    """Return what to type: a conversion of what is here, else the catalogue's own GGUF of the same model, if any."""
    import shlex

    if subject.model is not None:
        return f"llmrun models convert {shlex.quote(str(subject.model.path))}"
    if subject.facts.family is not None:
        from llmrun.models.catalogue import candidate_tag, find_family, resolve_tag

        family = find_family(subject.facts.family)
        for candidate in resolve_tag(family, None):
            size = round(candidate.variant.parameters_billion * 1e9)
            named = (candidate.quantization or "").upper() == (subject.facts.quantization or "").upper()
            if candidate.variant.format is ModelFormat.GGUF and named and size == subject.facts.parameters:
                return f"llmrun run {family.name}:{candidate_tag(family, candidate)}"
    return f"llmrun models pull {subject.pull.text}, and then llmrun models convert FILE"


def _variants_that_fit(judgement: Judgement, setting: Setting) -> Iterator[Suggestion]:
    """Name smaller files when nothing but memory is lacking."""
    if not any(_lacks_only(verdict, ReasonCode.MEMORY) for verdict in judgement.verdicts):
        return
    subject = judgement.subject
    found = False
    if subject.remote is not None and subject.ref.kind is RefKind.HUB:
        for other in reversed(subject.remote.alternatives):  # the largest that fits first
            if not found and fits_machine(other.size_bytes, ModelFormat.GGUF, setting.machine):
                found = True
                name = f"{subject.ref.name}:{other.quantization or other.tag}"
                size = f"{other.size_bytes / 2**30:.1f} GiB"
                yield Suggestion(text=f"{name} fits ({size})", command=f"llmrun run {name}")
    if not found and subject.facts.family is not None:
        yield from _sizes_that_fit(subject.facts.family, setting)


def _sizes_that_fit(family_name: str, setting: Setting) -> Iterator[Suggestion]:
    """Name the largest size of a family that fits, in the quantization that suits the machine."""
    from llmrun.models.catalogue import candidate_tag, find_family, resolve_tag

    family = find_family(family_name)
    gguf = [candidate for candidate in resolve_tag(family, None) if candidate.variant.format is ModelFormat.GGUF]
    sizes = sorted({candidate.variant.parameters_billion for candidate in gguf}, reverse=True)
    for size in sizes:
        same = [candidate for candidate in gguf if candidate.variant.parameters_billion == size]
        choice = choose_variant(same, setting.machine, lambda _candidate: True)
        if choice is not None and choice.fits:
            name = f"{family.name}:{candidate_tag(family, choice.candidate)}"
            yield Suggestion(text=f"{name} fits", command=f"llmrun run {name}")
            return


def _engines_to_install(judgement: Judgement) -> Iterator[Suggestion]:
    """Name engines that lack nothing but a command, and would be faster than the chosen one."""
    chosen = judgement.forecasts.get(judgement.chosen) if judgement.chosen else None
    for verdict in judgement.verdicts:
        objections = verdict.objections
        if verdict.engine is judgement.chosen or not objections:
            continue
        if not all(reason.code in _INSTALLABLE and reason.fix for reason in objections):
            continue
        other = judgement.forecasts.get(verdict.engine)
        if chosen is None or other is None or chosen.speed is None or other.speed is None:
            continue
        gain = other.speed.decode_tokens_per_second / chosen.speed.decode_tokens_per_second
        if gain >= _LEAST_GAIN:
            yield Suggestion(text=f"{verdict.engine} would be about {gain:.1f}x as fast", command=objections[0].fix)


def _faster_build(judgement: Judgement, setting: Setting) -> Iterator[Suggestion]:
    """Name a build with llmrun's own kernels, when the one that is here has none for this model."""
    info = judgement.subject.info
    forecast = judgement.forecasts.get(EngineName.LLAMA_CPP)
    if info is None or forecast is None or forecast.speed is None or judgement.chosen is not EngineName.LLAMA_CPP:
        return
    layers = 0 if forecast.memory is None else forecast.memory.gpu_layers
    support = setting.gpu_support(EngineName.LLAMA_CPP)
    built = forecast_speed(EngineName.LLAMA_CPP, info, setting.machine, gpu_layers=layers, gpu_support=support)
    if built is None or set(built.own_kernels) <= set(forecast.speed.own_kernels):
        return
    gain = built.decode_tokens_per_second / forecast.speed.decode_tokens_per_second
    if gain >= _LEAST_GAIN:
        types = " and ".join(built.own_kernels)
        yield Suggestion(
            text=f"a build with llmrun's own kernels for {types} would be about {gain:.1f}x as fast",
            command="llmrun install llama-cpp",
        )


def _faster_quantization(judgement: Judgement, setting: Setting) -> Iterator[Suggestion]:
    """Name a quantization that this processor has faster kernels for, when that outweighs its size."""
    info = judgement.subject.info
    forecast = judgement.forecasts.get(EngineName.LLAMA_CPP)
    now = None if forecast is None else forecast.speed
    if info is None or now is None or not now.slow_types or judgement.chosen is not EngineName.LLAMA_CPP:
        return
    for name in _FASTER_TYPES:
        other = _requantized(info, name)
        kernels = setting.own_kernels(EngineName.LLAMA_CPP)
        speed = forecast_speed(EngineName.LLAMA_CPP, other, setting.machine, gpu_support=False, kernels=kernels)
        if speed is None or not fits_machine(other.tensor_bytes, ModelFormat.GGUF, setting.machine):
            continue
        gain = speed.decode_tokens_per_second / now.decode_tokens_per_second
        if gain >= _LEAST_GAIN:
            slow = ", ".join(now.slow_types)
            yield Suggestion(
                text=f"a {name} file of this model would be about {gain:.1f}x as fast here: {slow} has no fast kernel "
                "on this processor"
            )
            return


def _requantized(info: ModelInfo, quantization: str) -> ModelInfo:
    """Return what the header would say of the same model in another quantization."""
    size_bytes = int(info.parameters * estimate_bits(quantization) / 8)
    experts = int(size_bytes * info.expert_bytes / info.tensor_bytes) if info.tensor_bytes else 0
    types = ((quantization, size_bytes),)
    return replace(info, quantization=quantization, tensor_types=types, tensor_bytes=size_bytes, expert_bytes=experts)


def _lacks_only(verdict: Verdict, code: ReasonCode) -> bool:
    objections = [reason for reason in verdict.reasons if reason.severity is not Severity.NOTE]
    return bool(objections) and all(reason.code is code for reason in objections)
