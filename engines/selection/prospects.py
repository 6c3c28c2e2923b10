"""What each engine is good for on a machine, and what installing or rebuilding it would bring.

The gain is shown on one model that people know, in the form that each engine reads: Llama 2 7B, as Q4_K_M for GGUF
engines and in 16 bits for the others. It is an estimate by the same rules as for any model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.memory.needs import plan_memory
from llmrun.engines.plan import PlanRequest
from llmrun.engines.selection.judge import judge_engine
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.reasons import Reason, ReasonCode
from llmrun.engines.speed.forecast import forecast_speed
from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine
from llmrun.models.types import ModelFormat, ModelInfo

__all__ = ["Prospect", "find_prospects"]

_PURPOSES = {
    EngineName.LLAMA_CPP: "runs GGUF files, of the Llama series and most others",
    EngineName.CTRANSFORMERS: "runs files from before GGUF (GGML, until August 2023)",
    EngineName.PYTORCH: "runs models in Hugging Face format",
    EngineName.VLLM: "runs models in Hugging Face format on CUDA devices, many prompts at once",
}
_EXAMPLES = {
    EngineName.LLAMA_CPP: (ModelFormat.GGUF, "Q4_K_M", (("Q4_K", 3_420_000_000), ("Q6_K", 660_000_000))),
    EngineName.CTRANSFORMERS: (ModelFormat.GGML, "Q4_0", (("Q4_0", 3_790_000_000),)),
    EngineName.PYTORCH: (ModelFormat.PYTORCH, "F16", (("F16", 13_476_839_424),)),
    EngineName.VLLM: (ModelFormat.PYTORCH, "F16", (("F16", 13_476_839_424),)),
}
_CONTEXT_LENGTH = 4096
_REBUILD = "llmrun install llama-cpp --rebuild"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What an engine means for this machine.

    Attributes:
        engine: Which one.
        purpose: What it is for.
        example: The estimate for Llama 2 7B, or None when it cannot be made.
        tokens_per_second: The same as a number.
        advice: What could be better, or why it cannot be used here; None when all is well.
        command: What to type for it.
    """

    engine: EngineName
    purpose: str
    example: str | None = None
    tokens_per_second: float | None = None
    advice: str | None = None
    command: str | None = None


def find_prospects(machine: Machine, engines: Mapping[EngineName, EngineFacts]) -> tuple[Prospect, ...]:
    """Return one for every engine."""
    return tuple(_prospect(engine, machine, facts) for engine, facts in engines.items())


def _prospect(engine: EngineName, machine: Machine, facts: EngineFacts) -> Prospect:
    info = _llama_2_7b(engine)
    reason = next(iter(_objections(machine, facts, info)), None)
    works = reason is None or reason.fix is not None
    # An engine that is yet to be installed will be built for the GPU that is here.
    support = facts.gpu_support if facts.installed else bool(machine.gpus)
    request = PlanRequest(context_length=_CONTEXT_LENGTH)
    plan = plan_memory(engine, info, machine, request, gpu_support=support)
    speed = None
    if works and plan.fits:
        speed = forecast_speed(
            engine, info, machine, gpu_layers=plan.gpu_layers, gpu_support=support, kernels=facts.own_kernels
        )
    rate = None if speed is None else speed.decode_tokens_per_second
    return Prospect(
        engine=engine,
        purpose=_PURPOSES[engine],
        example=_example(info, rate, fits=plan.fits) if works else None,
        tokens_per_second=rate,
        advice=_untuned(facts) if reason is None else _advice(reason),
        command=_REBUILD if reason is None and _untuned(facts) else None if reason is None else reason.fix,
    )


def _objections(machine: Machine, facts: EngineFacts, info: ModelInfo) -> tuple[Reason, ...]:
    """Return what speaks against the engine here, what cannot be mended first."""
    model = ModelFacts(format=info.format, architecture=info.architecture)
    verdict = judge_engine(model, machine, facts, None)
    return tuple(sorted(verdict.objections, key=lambda reason: reason.fix is not None))


def _advice(reason: Reason) -> str:
    return "to install it" if reason.code is ReasonCode.NOT_INSTALLED else reason.detail


def _untuned(facts: EngineFacts) -> str | None:
    """Say when llama.cpp is a build that was not made for this processor."""
    if facts.engine is not EngineName.LLAMA_CPP or any(name == "recipe" for name, _ in facts.build):
        return None
    return (
        "is not built for this processor; a build of its own was measured at up to 2x in generation and 4x in prompts"
    )


def _example(info: ModelInfo, rate: float | None, *, fits: bool) -> str | None:
    name = f"Llama 2 7B ({info.quantization})"
    if not fits:
        return f"{name} does not fit in memory here"
    return None if rate is None else f"{name}: about {rate:.2g} tokens/s expected"


def _llama_2_7b(engine: EngineName) -> ModelInfo:
    """Return the published shape of Llama 2 7B in a form that the engine reads."""
    format_, quantization, types = _EXAMPLES[engine]
    return ModelInfo(
        format=format_,
        architecture="LlamaForCausalLM" if format_ is ModelFormat.PYTORCH else "llama",
        parameters=6_738_415_616,
        quantization=quantization,
        context_length=4096,
        layers=32,
        embedding_length=4096,
        heads=32,
        kv_heads=(32,) * 32,
        key_length=128,
        value_length=128,
        vocabulary_size=32_000,
        tensor_bytes=sum(size for _, size in types),
        tensor_types=types,
    )
