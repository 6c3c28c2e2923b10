"""What a manifest says. Its JSON has the same names; docs/manifest.md describes them for other tools."""

from dataclasses import dataclass

from llmrun.engines.conversation.shorten import Overflow
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName, FinishReason, SamplingOptions

__all__ = [
    "KIND",
    "VERSION",
    "AnswerRecord",
    "AttachedRecord",
    "EngineRecord",
    "FileRecord",
    "GpuRecord",
    "MachineRecord",
    "Manifest",
    "ModelRecord",
    "Options",
    "PlanRecord",
    "PromptRecord",
    "TemplateRecord",
]

KIND = "llmrun-manifest"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of the model; `name` is relative to its folder."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The model: as it was typed, where it was, and exactly which files it had."""

    reference: str
    path: str
    format: str
    architecture: str
    quantization: str | None
    files: tuple[FileRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRecord:
    """Where the chat template came from; `sha256` of its source is None where there was none."""

    source: str
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """The engine that answered, and what tells its builds from one another."""

    name: EngineName
    version: str | None
    build: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRecord:
    """A GPU of the machine."""

    name: str
    compute_capability: str | None
    driver: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """What of the machine can change an answer or its speed."""

    system: str
    python_version: str
    cpu: str | None
    architecture: str
    isa_flags: tuple[str, ...]
    physical_cores: int | None
    usable_threads: int
    memory_bytes: int
    gpus: tuple[GpuRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for, after the command line, the environment and the configuration file were put together.

    Attributes:
        engine: The engine that was asked for, or None for the best one.
        draft: The model that guesses ahead, as typed.
        system: The system prompt.
        raw: No chat template was used.
        on_overflow: What was to happen to a prompt that is too long.
        plan: How the model was to be loaded; None leaves the choice to the plan.
        sampling: How tokens were chosen, with the seed.
    """

    engine: EngineName | None
    draft: str | None
    system: str | None
    raw: bool
    on_overflow: Overflow
    plan: PlanRequest
    sampling: SamplingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """How it was loaded in fact."""

    context_length: int
    threads: int
    gpu_layers: int
    kv_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedRecord:
    """A file that was attached, or standard input (`path` is None), of which the text is kept when it is short."""

    path: str | None
    size_bytes: int
    sha256: str
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """What was to be answered; `rendered_sha256` is of the whole text as the model saw it, template and all."""

    typed: str | None
    attached: tuple[AttachedRecord, ...]
    rendered_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """What came of it; `sha256` is of the text in UTF-8."""

    text: str
    sha256: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One answer and all that it depended on; `created` is a time in UTC, `llmrun` the version that wrote this."""

    created: str
    llmrun: str
    model: ModelRecord
    draft_files: tuple[FileRecord, ...]
    template: TemplateRecord
    engine: EngineRecord
    machine: MachineRecord
    options: Options
    plan: PlanRecord
    prompt: PromptRecord
    answer: AnswerRecord
