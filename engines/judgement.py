"""The whole answer to "which engine, and why": a model, found on this disk or in the catalogue, judged on a machine.

Nothing is downloaded and nothing is loaded: headers of files that are here are read, and for a catalogue name whose
files are not here the variant is chosen that suits the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmrun.engines.facts import EngineFacts
from llmrun.engines.model_facts import ModelFacts
from llmrun.engines.plan import PlanRequest, make_plan
from llmrun.engines.reasons import Reason, ReasonCode, Verdict
from llmrun.engines.selection import judge_engines, select_engine
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.engines.variants import choose_variant
from llmrun.errors import ModelFileError, ModelNotFoundError, NotEnoughMemoryError, NoUsableEngineError
from llmrun.hardware.types import Machine
from llmrun.models.catalogue import Candidate, Family, find_family, resolve_tag
from llmrun.models.gguf_info import read_gguf_info
from llmrun.models.reference import parse_reference
from llmrun.models.resolver import find_on_disk
from llmrun.models.types import LocalModel, ModelRef, RefKind

__all__ = ["Judgement", "judge_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What does not depend on the model: where, with which engines, and what the user insists on."""

    machine: Machine
    engines: Mapping[EngineName, EngineFacts]
    forced: EngineName | None
    runnable: frozenset[EngineName] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What came of it.

    Attributes:
        model: As typed.
        variant: What exactly was judged: a path, or `llama-2-chat:7b-q4_k_m`.
        on_disk: Whether its files are here.
        facts: The model, as the rules see it.
        chosen: The engine, or None when none can run it.
        because: Why it, or why none.
        verdicts: One for every engine.
        plan: How it would be loaded; only for files that are here.
    """

    model: str
    variant: str
    on_disk: bool
    facts: ModelFacts
    chosen: EngineName | None
    because: str
    verdicts: tuple[Verdict, ...]
    plan: LoadPlan | None = None


def judge_model(
    text: str,
    machine: Machine,
    engines: Mapping[EngineName, EngineFacts],
    *,
    forced: EngineName | None = None,
    runnable: frozenset[EngineName] | None = None,
) -> Judgement:
    """Judge every engine for a model on a machine.

    Args:
        text: The model, as typed.
        machine: This one, or another.
        engines: What is installed there.
        forced: The engine that the user asked for.
        runnable: The engines that can be driven; None judges by the rules alone.

    Raises:
        ModelNotFoundError: The model is neither on this disk nor in the catalogue.
        ModelFileError: Its file is no model.
    """
    ref = parse_reference(text)
    question = _Question(machine=machine, engines=engines, forced=forced, runnable=runnable)
    found = find_on_disk(ref)
    if found is not None:
        return _judge_local(text, found, question)
    if ref.kind is RefKind.CATALOGUE:
        return _judge_catalogue(ref, question)
    raise ModelNotFoundError(
        f"{text} is not on this disk, and only its files or the catalogue could say what it is",
        fix=f"llmrun models pull {text}",
    )


def _judge_local(text: str, model: LocalModel, question: _Question) -> Judgement:
    if model.path.is_dir():
        raise ModelFileError(
            f"{model.path} is a Hugging Face folder, and this version of llmrun reads the headers of GGUF files",
            fix="a GGUF version of the model",
        )
    info = read_gguf_info(model.path, family=model.family)
    judged = _judge(text, str(model.path), ModelFacts.from_info(info), question, on_disk=True)
    if judged.chosen is None:
        return judged
    try:
        plan, _ = make_plan(judged.chosen, model, info, question.machine, PlanRequest())
    except NotEnoughMemoryError as error:
        return _refuse_for_memory(judged, judged.chosen, error)
    return replace(judged, plan=plan)


def _refuse_for_memory(judged: Judgement, engine: EngineName, error: NotEnoughMemoryError) -> Judgement:
    reason = Reason(code=ReasonCode.MEMORY, detail=f"does not fit: {error.message}", fix=error.fix)
    verdicts = tuple(
        replace(verdict, eligible=False, reasons=(*verdict.reasons, reason)) if verdict.engine is engine else verdict
        for verdict in judged.verdicts
    )
    return replace(judged, chosen=None, because=error.message, verdicts=verdicts)


def _judge_catalogue(ref: ModelRef, question: _Question) -> Judgement:
    family = find_family(ref.name)
    candidates = resolve_tag(family, ref.tag)

    def is_runnable(candidate: Candidate) -> bool:
        facts = replace(_facts(family, candidate), weights_bytes=None)
        verdicts = judge_engines(facts, question.machine, question.engines, question.runnable)
        return any(
            verdict.eligible or _only_missing(verdict)
            for verdict in verdicts
            if question.forced is None or verdict.engine is question.forced
        )

    choice = choose_variant(candidates, question.machine, is_runnable)
    candidate = choice.candidate if choice is not None else candidates[0]
    label = f"{family.name}:{_tag(candidate)}"
    return _judge(ref.text, label, _facts(family, candidate), question, on_disk=False)


def _only_missing(verdict: Verdict) -> bool:
    """Return whether nothing but its installation keeps an engine from the model."""
    return all(reason.code is ReasonCode.NOT_INSTALLED for reason in verdict.objections)


def _facts(family: Family, candidate: Candidate) -> ModelFacts:
    return ModelFacts.from_variant(family, candidate.variant, candidate.quantization)


def _tag(candidate: Candidate) -> str:
    parts = [candidate.variant.size_label]
    if candidate.quantization is None:
        parts.append(candidate.variant.format.value)
    else:
        parts.append(candidate.quantization.lower())
    return "-".join(parts)


def _judge(text: str, variant: str, facts: ModelFacts, question: _Question, *, on_disk: bool) -> Judgement:
    machine, engines, runnable = question.machine, question.engines, question.runnable
    chosen: EngineName | None = None
    try:
        selection = select_engine(facts, machine, engines, forced=question.forced, runnable=runnable)
        verdicts, chosen, because = selection.verdicts, selection.chosen, selection.because
    except NoUsableEngineError as error:
        verdicts, because = judge_engines(facts, machine, engines, runnable), error.message
    return Judgement(
        model=text, variant=variant, on_disk=on_disk, facts=facts, chosen=chosen, because=because, verdicts=verdicts
    )
