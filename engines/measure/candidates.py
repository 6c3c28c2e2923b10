"""What can be measured: models that are on this disk, each with the engines that can run it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmrun.engines.installed.facts import EngineFacts, probe_engines
from llmrun.engines.measure.points import Setup, Sizes, request_for
from llmrun.engines.options import check_options
from llmrun.engines.plan import PlanRequest
from llmrun.engines.selection.judgement import judge
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import Subject, local_subject
from llmrun.engines.types import DRIVEN_ENGINES, EngineName, LoadPlan
from llmrun.errors import LlmrunError, NotEnoughMemoryError, NoUsableEngineError
from llmrun.hardware.types import Machine
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import find_on_disk
from llmrun.models.types import LocalModel, ModelInfo
from llmrun.progress import Progress

__all__ = ["Candidate", "ModelIdentity", "find_candidate", "identify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """A model as results name it.

    Attributes:
        reference: As it was typed.
        digest: `sha256:…` where it is known; else `file:…`, of path, size and time of the last change.
        size_bytes: Of its tensors.
    """

    reference: str
    path: str
    digest: str
    format: str
    architecture: str
    quantization: str | None
    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One model and the engines that it is to be measured on."""

    model: LocalModel
    info: ModelInfo
    subject: Subject
    setting: Setting
    engines: tuple[EngineName, ...]

    @property
    def identity(self) -> ModelIdentity:
        """What results name it by."""
        return identify(self.model, self.info)

    def facts(self, engine: EngineName) -> EngineFacts:
        """Return what is known of an engine's build."""
        return self.setting.engines.get(engine) or EngineFacts(engine=engine, installed=True)

    def plan(self, engine: EngineName, request: PlanRequest) -> LoadPlan:
        """Return how the model is loaded on an engine.

        Raises:
            LlmrunError: It cannot be, or not with these settings.
        """
        setting = replace(self.setting, request=request, forced=engine)
        judged = judge(self.subject, setting)
        if judged.error is not None:
            raise judged.error
        if judged.plan is None:
            raise NoUsableEngineError(f"{engine} has no plan for {self.model.path}")
        check_options(engine, request, on_gpu=self.on_gpu(engine))
        return judged.plan

    def plan_setup(self, setup: Setup, sizes: Sequence[Sizes], request: PlanRequest) -> LoadPlan:
        """Return how the model is loaded for the largest of the sizes.

        Raises:
            LlmrunError: It cannot be; says what would fit in memory, in terms of what is measured.
        """
        try:
            return self.plan(setup.engine, request_for(setup, sizes, request))
        except NotEnoughMemoryError as refused:
            raise NotEnoughMemoryError(refused.message, fix=self._what_fits(setup, sizes, request)) from None

    def _what_fits(self, setup: Setup, sizes: Sequence[Sizes], request: PlanRequest) -> str:
        """Return how many requests at once there is memory for, or how much context for one of them."""

        def fits(parallel: int, context_length: int | None) -> bool:
            tried = request_for(replace(setup, parallel=parallel), sizes, request)
            if context_length is not None:
                tried = replace(tried, context_length=context_length)
            try:
                self.plan(setup.engine, tried)
            except LlmrunError:
                return False
            return True

        at_once = bisect_left(range(1, setup.parallel), True, key=lambda count: not fits(count, None))
        if at_once:
            return f"-b {at_once} fits"
        longest = max(each.context_length() for each in sizes)
        room = bisect_left(range(1, longest), True, key=lambda length: not fits(1, length))
        return f"one request with up to {room:,} tokens of context fits" if room else "a smaller model, or quantization"

    def on_gpu(self, engine: EngineName) -> bool:
        """Return whether an engine would use a GPU here."""
        return bool(self.setting.machine.gpus) and self.setting.gpu_support(engine) is not False


def find_candidate(
    reference: str,
    wanted: Sequence[EngineName] | None,
    machine: Machine,
    request: PlanRequest,
    *,
    all_engines: bool,
    offline: bool,
    progress: Progress,
) -> Candidate:
    """Find a model, downloading it if need be, and the engines to measure it on.

    Args:
        reference: As typed.
        wanted: The engines that were named; None: the one that `run` would take.
        machine: This one.
        request: What the plans are to have in common.
        all_engines: Every engine that can run it.
        offline: Whether the network may not be used.
        progress: Shows downloads.

    Raises:
        LlmrunError: There is no such model, or no engine can run it.
    """
    ref = parse_reference(reference)
    model = find_on_disk(ref)
    if model is None:
        from llmrun.engines.prepare import pull_model

        model = pull_model(ref, offline=offline, progress=progress)
    subject = local_subject(ref, model, request)
    assert subject.info is not None
    setting = Setting(machine=machine, engines=probe_engines(machine), request=request, runnable=DRIVEN_ENGINES)
    engines = tuple(wanted or ()) or _able(subject, setting, all_engines=all_engines)
    return Candidate(model=model, info=subject.info, subject=subject, setting=setting, engines=engines)


def _able(subject: Subject, setting: Setting, *, all_engines: bool) -> tuple[EngineName, ...]:
    judged = judge(subject, setting)
    if all_engines:
        able = tuple(verdict.engine for verdict in judged.verdicts if not verdict.blockers)
        if able:
            return able
    if judged.chosen is None:
        error: LlmrunError = judged.error or NoUsableEngineError(judged.because)
        raise error
    return (judged.chosen,)


def identify(model: LocalModel, info: ModelInfo) -> ModelIdentity:
    """Return what results name a model by."""
    first = model.files[0] if model.files else None
    if first is not None and first.sha256 and len(model.files) == 1:
        digest = f"sha256:{first.sha256}"
    else:
        status = model.path.stat()
        digest = f"file:{model.path.resolve()} {info.tensor_bytes} {status.st_mtime_ns}"
    return ModelIdentity(
        reference=model.ref.text,
        path=str(model.path),
        digest=digest,
        format=info.format.value,
        architecture=info.architecture,
        quantization=info.quantization,
        parameters=info.parameters,
        size_bytes=info.tensor_bytes,
    )
