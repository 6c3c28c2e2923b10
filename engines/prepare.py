"""From what the user typed to a plan that an engine can load: resolve, read the header, probe, select, plan."""

from dataclasses import dataclass, replace

from llmrun.engines.facts import EngineFacts, probe_engines
from llmrun.engines.model_facts import ModelFacts
from llmrun.engines.plan import PlanRequest, check_request, make_plan
from llmrun.engines.selection import Selection, select_engine
from llmrun.engines.types import DRIVEN_ENGINES, EngineName, LoadPlan
from llmrun.errors import ModelFileError
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.types import Machine
from llmrun.models.gguf import GgufHeader, read_gguf_header
from llmrun.models.gguf_info import describe_gguf
from llmrun.models.reference import parse_reference
from llmrun.models.resolver import resolve
from llmrun.models.types import LocalModel, ModelInfo
from llmrun.progress import Progress

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that is on this disk, the engine chosen for it, and the plan to load it with."""

    model: LocalModel
    header: GgufHeader
    info: ModelInfo
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
    model = resolve(parse_reference(reference), offline=offline, progress=progress)
    header = _read_header(model)
    info = describe_gguf(header, family=model.family)
    machine = probe_machine()
    # The plan judges the memory, with the context length that was asked for and all the numbers.
    facts = replace(ModelFacts.from_info(info), weights_bytes=None)
    # A crash that was seen before explains itself again; looking for its record would cost more than it saves.
    engines = probe_engines(machine, kept=False)
    selection = select_engine(facts, machine, engines, forced=engine, runnable=DRIVEN_ENGINES)
    plan, notices = make_plan(selection.chosen, model, info, machine, request)
    unused = _unused_gpu_layers(request, engines.get(selection.chosen), machine)
    return Prepared(
        model=model,
        header=header,
        info=info,
        selection=selection,
        plan=plan,
        notices=(*info.warnings, *notices, *unused),
    )


def _unused_gpu_layers(request: PlanRequest, engine: EngineFacts | None, machine: Machine) -> tuple[str, ...]:
    """Say when layers were asked for on a GPU that cannot be used: llama.cpp itself ignores them in silence."""
    if not request.gpu_layers:
        return ()
    if engine is not None and engine.gpu_support is False:
        return (f"--gpu-layers has no effect: {engine.engine} is built for the processor only",)
    if not machine.gpus:
        return ("--gpu-layers has no effect: no GPU was found",)
    return ()


def _read_header(model: LocalModel) -> GgufHeader:
    if model.path.is_dir():
        raise ModelFileError(
            f"{model.path} is a Hugging Face folder; this version of llmrun runs GGUF files",
            fix="a GGUF version of the model",
        )
    return read_gguf_header(model.path)
