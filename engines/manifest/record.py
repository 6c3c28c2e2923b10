"""Put a manifest together from what a run knew: its model, its engine, its machine, its options."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import llmrun
from llmrun.engines.installed.facts import probe_engines
from llmrun.engines.manifest.values import (
    AnswerRecord,
    AttachedRecord,
    EngineRecord,
    FileRecord,
    GpuRecord,
    MachineRecord,
    Manifest,
    ModelRecord,
    Options,
    PlanRecord,
    PromptRecord,
    TemplateRecord,
)
from llmrun.engines.prepare import Prepared
from llmrun.engines.types import Done
from llmrun.errors import ModelFileError
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.types import Machine
from llmrun.models.prompt.conversation import RenderedPrompt, choose_template
from llmrun.models.types import ModelFile
from llmrun.progress import SILENT, Progress

__all__ = ["make_manifest", "sha256_of"]

_BLOCK_BYTES = 1 << 20
_WORTH_A_BAR_BYTES = 1 << 30


def sha256_of(data: bytes) -> str:
    """Return the hash in the form that manifests have."""
    return hashlib.sha256(data).hexdigest()


def make_manifest(
    prepared: Prepared,
    rendered: RenderedPrompt,
    options: Options,
    typed: str | None,
    attached: tuple[AttachedRecord, ...],
    text: str,
    done: Done,
    progress: Progress,
) -> Manifest:
    """Return what an answer depended on. Files whose sha256 nobody has computed yet are read once more for it.

    Raises:
        ModelFileError: A file of the model cannot be read any more.
    """
    machine = prepared.setting.machine if prepared.setting is not None else probe_machine()
    plan = prepared.plan
    draft = () if plan.draft_path is None else (_plain_file(Path(plan.draft_path)),)
    return Manifest(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        llmrun=llmrun.__version__,
        model=_model(prepared, progress),
        draft_files=_hashed(draft, Path(plan.draft_path or "."), progress),
        template=_template(prepared, rendered, raw=options.raw),
        engine=_engine(prepared, machine),
        machine=_machine(machine),
        options=options,
        plan=PlanRecord(
            context_length=plan.context_length,
            threads=plan.threads,
            gpu_layers=plan.gpu_layers,
            kv_type=plan.kv_type,
        ),
        prompt=PromptRecord(
            typed=typed, attached=attached, rendered_sha256=sha256_of(rendered.text.encode("utf-8", "surrogatepass"))
        ),
        answer=_answer(text, done),
    )


def _model(prepared: Prepared, progress: Progress) -> ModelRecord:
    info, model = prepared.info, prepared.model
    return ModelRecord(
        reference=model.ref.text,
        path=str(model.path.absolute()),
        format=info.format,
        architecture=info.architecture,
        quantization=info.quantization,
        files=_hashed(model.files, model.path, progress),
    )


def _answer(text: str, done: Done) -> AnswerRecord:
    return AnswerRecord(
        text=text,
        sha256=sha256_of(text.encode("utf-8", "surrogatepass")),
        prompt_tokens=done.stats.prompt_tokens,
        completion_tokens=done.stats.completion_tokens,
        finish_reason=done.finish_reason,
    )


def _template(prepared: Prepared, rendered: RenderedPrompt, *, raw: bool) -> TemplateRecord:
    template = None if raw else choose_template(prepared.info)
    return TemplateRecord(
        source=rendered.template_source,
        sha256=None if template is None else sha256_of(template.source.encode("utf-8", "surrogatepass")),
    )


def _engine(prepared: Prepared, machine: Machine) -> EngineRecord:
    setting = prepared.setting
    engines = probe_engines(machine, kept=False) if setting is None else setting.engines
    facts = engines.get(prepared.plan.engine)
    return EngineRecord(
        name=prepared.plan.engine,
        version=None if facts is None else facts.version,
        build=() if facts is None else facts.build,
    )


def _machine(machine: Machine) -> MachineRecord:
    return MachineRecord(
        system=machine.system,
        python_version=machine.python_version,
        cpu=machine.cpu.name,
        architecture=machine.cpu.architecture,
        isa_flags=tuple(sorted(machine.cpu.isa_flags)),
        physical_cores=machine.cpu.physical_cores,
        usable_threads=machine.cpu.threads,
        memory_bytes=machine.memory.total_bytes,
        gpus=tuple(
            GpuRecord(name=gpu.name, compute_capability=gpu.compute_capability, driver=gpu.driver)
            for gpu in machine.gpus
        ),
    )


def _plain_file(path: Path) -> ModelFile:
    return ModelFile(path=path, size_bytes=path.stat().st_size)


def _hashed(files: Sequence[ModelFile], path: Path, progress: Progress) -> tuple[FileRecord, ...]:
    """Return the files with their hashes; those of a split file or a folder are named relative to its folder."""
    folder = path if path.is_dir() else path.parent
    unknown_bytes = sum(file.size_bytes for file in files if file.sha256 is None)
    shown = progress if unknown_bytes >= _WORTH_A_BAR_BYTES else SILENT
    if unknown_bytes:
        shown.begin("reading the model once more, for its sha256", unknown_bytes)
    try:
        return tuple(
            FileRecord(
                name=str(file.path.relative_to(folder)) if file.path.is_relative_to(folder) else file.path.name,
                size_bytes=file.size_bytes,
                sha256=file.sha256 or _hash_file(file.path, shown),
            )
            for file in files
        )
    finally:
        shown.finish()


def _hash_file(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                progress.advance(len(block))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read for its sha256: {error.strerror or error}") from error
    return digest.hexdigest()
