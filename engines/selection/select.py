"""Which engine runs a model here: a verdict for every engine, each with all its reasons.

The rules are pure functions of their arguments: the model, the machine, the installed engines. Nothing is imported or
probed here, so that they can be tested as a table and asked about a machine that is not this one.

For each format there is an order of engines, the best one first, and the first eligible one is chosen:

    GGUF               llama-cpp, then pytorch (which unpacks it: much slower)
    GGML               ctransformers
    pytorch            vllm when the weights are not quantized, on Linux with a CUDA device, and it supports the
                       architecture; else pytorch
    gptq awq fp8 fp4   vllm under the same conditions, on a GPU that has the kernels; else pytorch where it can
    bnb                pytorch

What was measured on this machine beats the order: of the engines that can run the model, one that was measured to be
really faster than the first is chosen instead of it, vLLM on a processor too.

An engine that was built without support for the GPU that is here is not eligible, but when nothing else is, it is
better than no answer, and the selection says what it lacks.
"""

from collections.abc import Mapping
from types import MappingProxyType

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.measure.speeds import MeasuredSpeed, choose_measured, explain_measured
from llmrun.engines.selection.judge import judge_engine
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.reasons import Reason, ReasonCode, Selection, Severity, Verdict
from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError
from llmrun.hardware.types import Machine
from llmrun.models.types import ModelFormat

__all__ = [
    "ModelFacts",
    "Reason",
    "ReasonCode",
    "Selection",
    "Severity",
    "Verdict",
    "fallback_notice",
    "judge_engines",
    "select_engine",
]

_FIRST = {
    ModelFormat.GGUF: (EngineName.LLAMA_CPP, EngineName.PYTORCH),
    ModelFormat.GGML: (EngineName.CTRANSFORMERS,),
    ModelFormat.BNB: (EngineName.PYTORCH,),
}
_FIRST_OTHERWISE = (EngineName.VLLM, EngineName.PYTORCH)
_ENGINES = tuple(engine for engine in EngineName if engine is not EngineName.FAKE)
_ASKED_FOR = "asked for with --engine"
_BECAUSE = {
    EngineName.LLAMA_CPP: "the fastest engine for {format} files",
    EngineName.CTRANSFORMERS: "the engine for files from before GGUF",
    EngineName.PYTORCH: "the default for the {format} format",
    EngineName.VLLM: "the fastest engine for the {format} format on a CUDA device",
}


def select_engine(
    model: ModelFacts,
    machine: Machine,
    facts: Mapping[EngineName, EngineFacts],
    *,
    forced: EngineName | None = None,
    runnable: frozenset[EngineName] | None = None,
    refusals: Mapping[EngineName, Reason] = MappingProxyType({}),
    speeds: Mapping[EngineName, MeasuredSpeed] = MappingProxyType({}),
) -> Selection:
    """Choose an engine.

    Args:
        model: What is to be run.
        machine: Where.
        facts: What is known of the engines there; one that is missing counts as not installed.
        forced: The engine that the user asked for. It is honoured unless it cannot work.
        runnable: The engines that can be driven; None to judge as if every one could.
        refusals: What a plan made from the model's headers found against an engine.
        speeds: What was measured of the model on this machine.

    Raises:
        NoUsableEngineError: None can run the model, or the forced one cannot; carries the reasons.
    """
    if forced is EngineName.FAKE:
        return Selection(chosen=forced, because=_ASKED_FOR, verdicts=())
    verdicts = judge_engines(model, machine, facts, runnable, refusals)
    if forced is not None:
        return _honour(forced, verdicts)
    for verdict in verdicts:
        if verdict.eligible:
            return _with_measured(verdict, verdicts, model, speeds)
    for verdict in verdicts:
        if {reason.code for reason in verdict.objections} == {ReasonCode.GPU_BUILD_MISSING}:
            because = "no other engine can run it here; without the GPU, because this build does not support it"
            return Selection(chosen=verdict.engine, because=because, verdicts=verdicts)
    readers = [v for v in verdicts if all(reason.code is not ReasonCode.FORMAT for reason in v.objections)]
    summary = f"no engine can run this {model.format.value} model here"
    raise _refusal(summary, [(verdict, verdict.objections) for verdict in readers])


def _with_measured(
    first: Verdict, verdicts: tuple[Verdict, ...], model: ModelFacts, speeds: Mapping[EngineName, MeasuredSpeed]
) -> Selection:
    """Choose the first eligible engine, or one that was measured to be faster."""
    able = [verdict.engine for verdict in verdicts if _may_be_measured(verdict)]
    chosen = choose_measured(first.engine, able, speeds)
    others = [speeds[engine] for engine in able if engine in speeds and engine is not chosen]
    if chosen not in speeds or not others:
        return Selection(chosen=chosen, because=_explain(first, verdicts, model), verdicts=verdicts)
    other = speeds[first.engine] if chosen is not first.engine else max(others, key=lambda each: each.decode_mean)
    because = explain_measured(speeds[chosen], other) or _explain(first, verdicts, model)
    return Selection(chosen=chosen, because=because, verdicts=verdicts)


def _may_be_measured(verdict: Verdict) -> bool:
    """Return whether an engine works here, if only slowly as a rule: vLLM without a GPU does."""
    slow_only = {reason.code for reason in verdict.objections} == {ReasonCode.NO_GPU} and not verdict.blockers
    return verdict.eligible or slow_only


def judge_engines(
    model: ModelFacts,
    machine: Machine,
    facts: Mapping[EngineName, EngineFacts],
    runnable: frozenset[EngineName] | None = None,
    refusals: Mapping[EngineName, Reason] = MappingProxyType({}),
) -> tuple[Verdict, ...]:
    """Return the verdict on every engine, the best one for this format first. Arguments as for `select_engine`."""
    first = _FIRST.get(model.format, _FIRST_OTHERWISE)
    order = (*first, *(engine for engine in _ENGINES if engine not in first))
    return tuple(
        judge_engine(
            model,
            machine,
            facts.get(engine) or EngineFacts(engine=engine, installed=False),
            runnable,
            refusals.get(engine),
        )
        for engine in order
    )


def fallback_notice(selection: Selection, reference: str) -> str | None:
    """Return one line when a better engine would run the model but for something that can be mended; else None."""
    if not selection.verdicts:
        return None
    best = selection.verdicts[0]
    fixable = bool(best.objections) and all(reason.fix for reason in best.objections)
    if not fixable or selection.because == _ASKED_FOR:
        return None
    reason = _weightiest(best.objections)
    instead = "without the GPU" if best.engine is selection.chosen else f"using {selection.chosen}"
    return f"{best.engine} {reason.detail}; {instead} (llmrun which-backend {reference} says more)"


def _honour(forced: EngineName, verdicts: tuple[Verdict, ...]) -> Selection:
    verdict = next(verdict for verdict in verdicts if verdict.engine is forced)
    if verdict.blockers:
        raise _refusal(f"{forced.value} cannot run this model here", [(verdict, verdict.blockers)])
    return Selection(chosen=forced, because=_ASKED_FOR, verdicts=verdicts)


def _explain(chosen: Verdict, verdicts: tuple[Verdict, ...], model: ModelFacts) -> str:
    """Say why this one: because it is the best, or because of what a better one lacks."""
    best = verdicts[0]
    if chosen is best:
        return _BECAUSE[chosen.engine].format(format=model.format.value)
    reason = _weightiest(best.objections)
    return f"{best.engine.value} {reason.detail}"


def _weightiest(reasons: tuple[Reason, ...]) -> Reason:
    """Return the reason to show when there is room for one: not that it is not installed, if that would not help."""
    telling = [reason for reason in reasons if reason.code is not ReasonCode.NOT_INSTALLED]
    return (telling or list(reasons))[0]


def _refusal(summary: str, against: list[tuple[Verdict, tuple[Reason, ...]]]) -> NoUsableEngineError:
    parts = [f"{verdict.engine.value} {reason.detail}" for verdict, reasons in against for reason in reasons]
    return NoUsableEngineError(f"{summary}: {'; '.join(parts)}" if parts else summary, fix=_first_fix(against))


def _first_fix(against: list[tuple[Verdict, tuple[Reason, ...]]]) -> str | None:
    """Return the first fix that would leave nothing else in the way."""
    for _, reasons in against:
        if reasons and all(reason.fix for reason in reasons):
            # What is to be installed has to fit the other reasons, so their fix says more than `llmrun install`.
            return _weightiest(reasons).fix
    return None
