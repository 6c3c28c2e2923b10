"""The whole answer to "which engine, and why": every engine judged for a model on a machine.

The rules of selection, a memory plan for every engine that reads the format, and on request the expected speed come
together here. `run` and `which-backend` ask the same function, so what the one explains is what the other does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from llmrun.engines.measure.speeds import MeasuredSpeed
from llmrun.engines.memory.needs import MemoryPlan, plan_memory
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.plan import make_plan
from llmrun.engines.selection.judge import reads_format
from llmrun.engines.selection.reasons import Reason, ReasonCode, Verdict
from llmrun.engines.selection.select import judge_engines, select_engine
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import Subject
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import NotEnoughMemoryError, NoUsableEngineError, SecurityError
from llmrun.folders import cache_folder

if TYPE_CHECKING:
    from llmrun.engines.speed.forecast import SpeedForecast

__all__ = ["Forecast", "Judgement", "judge"]

_REAL_ENGINES = tuple(engine for engine in EngineName if engine is not EngineName.FAKE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What an engine would need for the model, and how fast it would be; None where nobody can tell."""

    memory: MemoryPlan | None = None
    speed: "SpeedForecast | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What came of it.

    Attributes:
        subject: The model.
        chosen: The engine, or None when none can run it.
        because: Why it, or why none.
        verdicts: One for every engine, the best for this format first.
        forecasts: For the engines that read the format, when the model's headers are known.
        speeds: What was measured of the model on this machine.
        plan: How it would be loaded, when an engine was chosen and the headers are known.
        notices: What the plan decided that the user should know of.
        error: What `run` ends with when nothing was chosen.
    """

    subject: Subject
    chosen: EngineName | None
    because: str
    verdicts: tuple[Verdict, ...]
    forecasts: Mapping[EngineName, Forecast]
    speeds: Mapping[EngineName, MeasuredSpeed] = field(default_factory=dict)
    plan: LoadPlan | None = None
    notices: tuple[str, ...] = ()
    error: NotEnoughMemoryError | NoUsableEngineError | SecurityError | None = None


def judge(subject: Subject, setting: Setting, *, with_speed: bool = False) -> Judgement:
    """Judge every engine for a model, and plan its start on the one that is chosen.

    Raises:
        UsageError: An option that this model cannot honour.
    """
    memory = _plan_memory(subject, setting)
    refused = {engine: error for engine in memory if (error := _refusal(subject, setting, engine))}
    reasons = {engine: _reason(error) for engine, error in refused.items()}
    forecasts = {
        engine: Forecast(memory=plan, speed=_forecast_speed(subject, setting, plan) if with_speed else None)
        for engine, plan in memory.items()
    }
    facts, machine, engines = subject.facts, setting.machine, setting.engines
    speeds = _kept_speeds(subject, setting)
    try:
        selection = select_engine(
            facts,
            machine,
            engines,
            forced=setting.forced,
            runnable=setting.runnable,
            refusals=reasons,
            speeds=speeds,
        )
    except NoUsableEngineError as error:
        verdicts = judge_engines(facts, machine, engines, setting.runnable, reasons)
        cause = _memory_error(verdicts, refused, setting.forced) or _unsafe(verdicts, setting.forced) or error
        return Judgement(
            subject=subject,
            chosen=None,
            because=cause.message,
            verdicts=verdicts,
            forecasts=forecasts,
            speeds=speeds,
            error=cause,
        )
    plan, notices = _make_plan(subject, setting, selection.chosen)
    return Judgement(
        subject=subject,
        chosen=selection.chosen,
        because=selection.because,
        verdicts=selection.verdicts,
        forecasts=forecasts,
        speeds=speeds,
        plan=plan,
        notices=notices,
    )


def _kept_speeds(subject: Subject, setting: Setting) -> Mapping[EngineName, MeasuredSpeed]:
    """Return what was measured here of a model on this disk, if that is to count."""
    if not setting.measured or subject.model is None or not cache_folder().joinpath("measured").is_dir():
        return {}
    from llmrun.engines.measure.store import kept_speeds

    return kept_speeds(subject.model, setting.engines, setting.machine)


def _plan_memory(subject: Subject, setting: Setting) -> dict[EngineName, MemoryPlan]:
    """Return a plan for every engine that reads the format."""
    info = subject.info or subject.approximate
    if info is None:
        return {}
    return {
        engine: plan_memory(engine, info, setting.machine, setting.request, gpu_support=setting.gpu_support(engine))
        for engine in _REAL_ENGINES
        if reads_format(engine, info.format)
    }


def _make_plan(subject: Subject, setting: Setting, engine: EngineName) -> tuple[LoadPlan | None, tuple[str, ...]]:
    if subject.info is None:
        return None, ()
    path = subject.label if subject.model is None else subject.model
    make = partial(make_plan, engine, path, subject.info, setting.machine, gpu_support=setting.gpu_support(engine))
    return _make_tuned(make, subject, setting, engine) or make(setting.request)


def _make_tuned(
    make: Callable[[PlanRequest], tuple[LoadPlan, tuple[str, ...]]],
    subject: Subject,
    setting: Setting,
    engine: EngineName,
) -> tuple[LoadPlan, tuple[str, ...]] | None:
    """Return a plan with what was found to be faster here; None where that is nothing, or does not fit."""
    facts = setting.engines.get(engine)
    if not setting.measured or subject.model is None or not cache_folder().joinpath("tuned").is_dir():
        return None
    if facts is None or subject.info is None:
        return None
    from llmrun.engines.measure.tuned import open_tuning, with_tuning

    found = open_tuning(setting.request, subject.model, facts, setting.machine)
    if found is None:
        return None
    try:
        plan, notices = make(found.request_for(setting.request))
    except NotEnoughMemoryError:
        return None
    tuned = with_tuning(plan, found, subject.info, setting.machine)
    return None if tuned is None else (tuned, notices)


def _refusal(subject: Subject, setting: Setting, engine: EngineName) -> NotEnoughMemoryError | None:
    try:
        _make_plan(subject, setting, engine)
    except NotEnoughMemoryError as error:
        return error
    return None


def _forecast_speed(subject: Subject, setting: Setting, plan: MemoryPlan) -> "SpeedForecast | None":
    from llmrun.engines.speed.forecast import forecast_speed

    info = subject.info or subject.approximate
    if info is None:
        return None
    return forecast_speed(
        plan.engine,
        info,
        setting.machine,
        gpu_layers=plan.gpu_layers,
        gpu_support=setting.gpu_support(plan.engine),
        kernels=setting.own_kernels(plan.engine),
    )


def _reason(error: NotEnoughMemoryError) -> Reason:
    return Reason(code=ReasonCode.MEMORY, detail=f"has no room: {error.message}", fix=error.fix)


def _memory_error(
    verdicts: tuple[Verdict, ...], refused: Mapping[EngineName, NotEnoughMemoryError], forced: EngineName | None
) -> NotEnoughMemoryError | None:
    """Return the refusal of the best engine that lacks nothing but memory: that is the cause to name."""
    for verdict in verdicts:
        against = verdict.blockers if forced is verdict.engine else verdict.objections
        if forced in (None, verdict.engine) and {reason.code for reason in against} == {ReasonCode.MEMORY}:
            return refused.get(verdict.engine)
    return None


def _unsafe(verdicts: tuple[Verdict, ...], forced: EngineName | None) -> SecurityError | None:
    """Return the refusal where an engine would do, but only with code of the model's own."""
    for verdict in verdicts:
        against = verdict.blockers if forced is verdict.engine else verdict.objections
        if forced in (None, verdict.engine) and {reason.code for reason in against} == {ReasonCode.REMOTE_CODE}:
            reason = against[0]
            return SecurityError(f"{verdict.engine.value} {reason.detail}: it is not run unasked", fix=reason.fix)
    return None
