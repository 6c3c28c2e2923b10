"""Which engine runs a model here: a verdict for every engine, each with all its reasons.

The rules are pure functions of their arguments: what a header says, and which engines are installed. Nothing is
imported or probed here, so that they can be tested as a table and asked about a machine that is not this one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError
from llmrun.models.types import ModelFormat, ModelInfo

__all__ = ["Reason", "Selection", "Verdict", "find_installed", "select_engine"]

_MODULES = {
    EngineName.LLAMA_CPP: "llama_cpp",
    EngineName.CTRANSFORMERS: "ctransformers",
    EngineName.PYTORCH: "transformers",
    EngineName.VLLM: "vllm",
}
_READS = {
    EngineName.LLAMA_CPP: frozenset({ModelFormat.GGUF}),
    EngineName.CTRANSFORMERS: frozenset({ModelFormat.GGML}),
    EngineName.PYTORCH: frozenset(ModelFormat) - {ModelFormat.GGUF, ModelFormat.GGML},
    EngineName.VLLM: frozenset(ModelFormat) - {ModelFormat.GGUF, ModelFormat.GGML},
}
_RUNNABLE = frozenset({EngineName.LLAMA_CPP})
"""Engines that this version of llmrun has an adapter for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One fact that speaks against an engine, or for it. `code` is stable; `fix` is something to type, or None."""

    code: str
    detail: str
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an engine can run the model here. `reasons` holds every blocker, not the first one."""

    engine: EngineName
    eligible: bool
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The engine that was chosen, why, and the verdict on each of them."""

    chosen: EngineName
    because: str
    verdicts: tuple[Verdict, ...]


def find_installed() -> dict[EngineName, bool]:
    """Return which engines are installed beside llmrun, without importing any of them."""
    from importlib.util import find_spec

    return {engine: find_spec(module) is not None for engine, module in _MODULES.items()}


def select_engine(info: ModelInfo, installed: Mapping[EngineName, bool], forced: EngineName | None = None) -> Selection:
    """Choose an engine.

    Raises:
        NoUsableEngineError: None can run the model, or the forced one cannot; carries the reasons.
    """
    if forced is EngineName.FAKE:
        return Selection(chosen=forced, because="asked for with --engine", verdicts=())
    verdicts = tuple(judge_engine(engine, info, installed) for engine in _MODULES)
    if forced is not None:
        verdict = next(verdict for verdict in verdicts if verdict.engine is forced)
        if not verdict.eligible:
            raise _refusal(f"{forced} cannot run this model here", (verdict,))
        return Selection(chosen=forced, because="asked for with --engine", verdicts=verdicts)
    for verdict in verdicts:
        if verdict.eligible:
            return Selection(chosen=verdict.engine, because=f"it reads {info.format}", verdicts=verdicts)
    readers = tuple(verdict for verdict in verdicts if info.format in _READS[verdict.engine])
    raise _refusal(f"no engine can run this {info.format} model here", readers)


def judge_engine(engine: EngineName, info: ModelInfo, installed: Mapping[EngineName, bool]) -> Verdict:
    """Return the verdict on one engine, with every reason that speaks against it."""
    blockers = []
    if info.format not in _READS[engine]:
        blockers.append(Reason(code="format", detail=f"does not read {info.format}"))
    if engine not in _RUNNABLE:
        blockers.append(Reason(code="adapter", detail="is not driven by this version of llmrun"))
    if not installed.get(engine, False):
        blockers.append(Reason(code="not-installed", detail="is not installed", fix=f"llmrun install {engine}"))
    return Verdict(engine=engine, eligible=not blockers, reasons=tuple(blockers))


def _refusal(summary: str, verdicts: tuple[Verdict, ...]) -> NoUsableEngineError:
    parts = [f"{verdict.engine} {reason.detail}" for verdict in verdicts for reason in verdict.reasons]
    fixes = [verdict.reasons[0].fix for verdict in verdicts if len(verdict.reasons) == 1]  # nothing else blocks these
    return NoUsableEngineError(f"{summary}: {'; '.join(parts)}", fix=fixes[0] if fixes else None)
