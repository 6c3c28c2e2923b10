"""Machines, models and installed engines for the tests of selection."""

from typing import Any

from llmrun.engines.installed.facts import EngineFacts, assume_engine
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.reasons import Verdict
from llmrun.engines.types import EngineName
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo
from llmrun.models.catalogue import find_family
from llmrun.models.types import ModelFormat

GIB = 1 << 30
H200 = GPU(
    vendor=GpuVendor.NVIDIA,
    name="NVIDIA H200",
    total_bytes=140 * GIB,
    free_bytes=138 * GIB,
    compute_capability="9.0",
)
LLAMA_CPP, CTRANSFORMERS = EngineName.LLAMA_CPP, EngineName.CTRANSFORMERS
PYTORCH, VLLM = EngineName.PYTORCH, EngineName.VLLM
REAL = (LLAMA_CPP, CTRANSFORMERS, PYTORCH, VLLM)
LLAMA = ModelFacts(format=ModelFormat.PYTORCH, architecture="LlamaForCausalLM")
GGUF = ModelFacts(format=ModelFormat.GGUF, architecture="llama")


def make_machine(system: str = "linux", *gpus: GPU, memory_bytes: int = 256 * GIB, **cpu: Any) -> Machine:
    facts: dict[str, Any] = {
        "name": "a processor",
        "architecture": "x86_64",
        "physical_cores": 8,
        "logical_cores": 16,
        "affinity": 16,
        "quota": None,
        "isa_flags": frozenset({"avx2"}),
    }
    return Machine(
        system=system,
        python_version="3.12.1",
        cpu=CpuInfo(**(facts | cpu)),
        memory=MemoryInfo(total_bytes=memory_bytes, available_bytes=memory_bytes),
        gpus=gpus,
    )


SERVER, LAPTOP = make_machine("linux", H200), make_machine()


def engines(*installed: EngineName, **changed: EngineFacts) -> dict[EngineName, EngineFacts]:
    found = {engine: assume_engine(engine, installed=engine in installed) for engine in REAL}
    return found | {fact.engine: fact for fact in changed.values()}


ALL = engines(*REAL)


def codes(verdict: Verdict) -> set[str]:
    return {reason.code.value for reason in verdict.objections}


def verdict_of(engine: EngineName, verdicts: tuple[Verdict, ...]) -> Verdict:
    return next(verdict for verdict in verdicts if verdict.engine is engine)


def find_variant(family: str, stored: ModelFormat, billions: float, quantization: str | None = None) -> ModelFacts:
    found = find_family(family)
    variant = next(v for v in found.variants if v.format is stored and v.parameters_billion == billions)
    return ModelFacts.from_variant(found, variant, quantization)
