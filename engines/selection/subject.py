"""What a reference means before anything is downloaded: files of this disk, of a repository, or a catalogue's word.

The headers of a repository's files are read over the network, so that the answer to "does it run here?" comes before
the download does. For a name of the catalogue that is not on this disk, the variant is chosen that suits the machine;
when its repository cannot be reached, the catalogue's own figures are judged, and a notice says so.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.selection.headers import read_gguf_facts
from llmrun.engines.selection.model_facts import ModelFacts, approximate_info
from llmrun.engines.selection.select import judge_engines
from llmrun.engines.selection.setting import Setting
from llmrun.errors import ModelFileError, ModelNotFoundError, NetworkError
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import find_on_disk, is_offline, refuse_offline
from llmrun.models.resolver.sources import sources_of
from llmrun.models.types import LocalModel, ModelFormat, ModelInfo, ModelRef, RefKind
from llmrun.progress import Progress
from llmrun.values import value

if TYPE_CHECKING:
    from llmrun.engines.selection.reasons import Verdict
    from llmrun.models.catalogue import Candidate, Family
    from llmrun.models.hub.remote import RemoteModel

__all__ = ["Subject", "find_subject", "local_subject"]

_ESTIMATED = "the figures are estimates from the catalogue, because the model's headers were not read"
_PATIENCE_SECONDS = 5.0  # for a look that the answer could do without
_WORTH_A_LOOK_BYTES = 1 << 30  # of less, the catalogue's estimate is good enough to begin a download with


@value
class Subject:
    """A model to be judged.

    Attributes:
        ref: What was typed.
        label: What exactly is meant: a path, `ORG/REPO:FILE`, or a catalogue name with its tag.
        pull: The reference that fetches exactly this.
        facts: The model, as the rules of selection see it.
        info: What its headers say, or None when only the catalogue's word is known.
        approximate: Then the shape that a model of this size usually has, for estimates.
        added_tokens: Texts of control tokens and of tokens that engines find in any text, of a GGUF on this disk.
        model: Its files, when they are on this disk.
        remote: What the hub said of it, when it was asked.
        notices: What the user should know of how this was found out.
    """

    ref: ModelRef
    label: str
    pull: ModelRef
    facts: ModelFacts
    info: ModelInfo | None = None
    approximate: ModelInfo | None = None
    added_tokens: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    model: LocalModel | None = None
    remote: "RemoteModel | None" = None
    notices: tuple[str, ...] = ()

    @property
    def on_disk(self) -> bool:
        """Whether its files are here."""
        return self.model is not None


def find_subject(
    ref: ModelRef, setting: Setting, *, offline: bool, progress: Progress, thorough: bool = True
) -> Subject:
    """Find out what a reference means, without downloading it.

    Args:
        ref: The model, as typed.
        setting: Whose machine and engines a variant is chosen for.
        offline: Whether the network may not be used.
        progress: Says what is being asked for.
        thorough: Ask the hub for the header of a small model of the catalogue too.

    Raises:
        ModelNotFoundError: There is no such model, or it is not on this disk and the network may not be used.
        ModelFileError: Its file is no model, or is damaged.
        SecurityError: It is refused because reading it would be unsafe.
        NetworkError: The hub had to be asked, and failed.
    """
    found = find_on_disk(ref)
    if found is not None:
        return local_subject(ref, found, setting.request)
    offline = offline or is_offline()
    if ref.kind is RefKind.CATALOGUE:
        return _catalogue_subject(ref, setting, offline=offline, progress=progress, thorough=thorough)
    if offline:
        refuse_offline(ref, sources_of(ref), offline=True)
    return _remote_subject(ref, setting.request, progress)


def local_subject(ref: ModelRef, model: LocalModel, request: PlanRequest) -> Subject:
    """Read the headers of a model on this disk; the request says what may be unsafe, and what a legacy file holds.

    Raises:
        ModelFileError: It is no model, is damaged, or of a kind that is not read.
        SecurityError: It is refused because reading it would be unsafe.
    """
    tokens = None
    if model.path.is_dir():
        from llmrun.models.huggingface.info import LocalFolder, read_folder_info

        info = read_folder_info(LocalFolder(model.path), family=model.family, pickle=request.pickle)
    elif _is_legacy(model.path):
        from llmrun.models.ggml.info import read_ggml_info

        info = read_ggml_info(model.path, family=model.family, model_type=request.model_type)
    else:
        found = read_gguf_facts(model.path, family=model.family)
        info, tokens = found.info, (found.control_tokens, found.user_defined_tokens)
    return Subject(
        ref=ref,
        label=str(model.path),
        pull=ref,
        facts=_facts_of(info, request),
        info=info,
        added_tokens=tokens,
        model=model,
        notices=info.warnings,
    )


def _is_legacy(path: Path) -> bool:
    from llmrun.models.sniff import FileKind, sniff

    return sniff(path).kind is FileKind.GGML


def _remote_subject(ref: ModelRef, request: PlanRequest, progress: Progress) -> Subject:
    from llmrun.models.hub.remote import look_up

    return _of_remote(ref, ref, look_up(ref, progress=progress), request)


def _of_remote(ref: ModelRef, pull: ModelRef, remote: "RemoteModel", request: PlanRequest) -> Subject:
    return Subject(
        ref=ref,
        label=remote.label,
        pull=pull,
        facts=_facts_of(remote.info, request),
        info=remote.info,
        remote=remote,
        notices=remote.info.warnings,
    )


def _facts_of(info: ModelInfo, request: PlanRequest) -> ModelFacts:
    """Return the facts for the rules; the memory is judged by a plan, which knows more than the size of the weights."""
    facts = ModelFacts.from_info(info, quantization=request.quantization)
    return replace(facts, weights_bytes=None, trusted=request.remote_code)


def _catalogue_subject(
    ref: ModelRef, setting: Setting, *, offline: bool, progress: Progress, thorough: bool
) -> Subject:
    from llmrun.engines.selection.variants import choose_variant
    from llmrun.models.catalogue import candidate_tag, find_family, resolve_tag

    family = find_family(ref.name)
    candidates = resolve_tag(family, ref.tag)
    choice = choose_variant(candidates, setting.machine, lambda candidate: _is_runnable(family, candidate, setting))
    candidate = choice.candidate if choice is not None else candidates[0]
    label = f"{family.name}:{candidate_tag(family, candidate)}"
    facts = ModelFacts.from_variant(family, candidate.variant, candidate.quantization)
    subject = Subject(
        ref=ref,
        label=label,
        pull=parse_reference(label),
        facts=facts,
        approximate=approximate_info(facts, candidate.variant.context_length),
        notices=(_ESTIMATED,),
    )
    if candidate.variant.format is ModelFormat.GGML:  # a header without what a plan needs
        return subject
    if offline or (not thorough and (facts.weights_bytes or 0) < _WORTH_A_LOOK_BYTES):
        return subject
    return _with_headers(subject, setting.request, progress)


def _with_headers(subject: Subject, request: PlanRequest, progress: Progress) -> Subject:
    from llmrun.models.hub.remote import look_up

    try:
        remote = look_up(subject.pull, progress=progress, timeout_seconds=_PATIENCE_SECONDS)
    except (NetworkError, ModelNotFoundError, ModelFileError) as error:
        return replace(subject, notices=(f"{_ESTIMATED}: {error.message}",))
    found = _of_remote(subject.ref, subject.pull, remote, request)
    # Quantizing while loading is not in the files, it was asked for.
    quantization = subject.facts.quantization if subject.facts.format is ModelFormat.PYTORCH else None
    facts = replace(found.facts, family=subject.facts.family, quantization=quantization or found.facts.quantization)
    return replace(found, label=subject.label, facts=facts)


def _is_runnable(family: "Family", candidate: "Candidate", setting: Setting) -> bool:
    """Return whether some engine would run a variant, memory and installation left aside."""
    facts = ModelFacts.from_variant(family, candidate.variant, candidate.quantization)
    verdicts = judge_engines(replace(facts, weights_bytes=None), setting.machine, setting.engines, setting.runnable)
    return any(
        verdict.eligible or _only_missing(verdict)
        for verdict in verdicts
        if setting.forced is None or verdict.engine is setting.forced
    )


def _only_missing(verdict: "Verdict") -> bool:
    from llmrun.engines.selection.reasons import ReasonCode

    return all(reason.code is ReasonCode.NOT_INSTALLED for reason in verdict.objections)
