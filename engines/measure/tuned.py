"""What tuning found to be faster on this machine, kept like measured speeds, and put into plans.

It counts where nothing else was asked for, and only for the model, the engine's installation and the machine that it
was found with. The type of the KV cache and the layers on a GPU decide what fits in memory, so a plan is made for them;
where it does not fit, and where there is no room for the scores of attention, the tuning is left out.
"""

import datetime
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.installed.kept import forget, keep, read_kept
from llmrun.engines.measure.store import kept_key, model_names
from llmrun.engines.memory.kv import KV_BYTES
from llmrun.engines.memory.types import SHARE, PlanRequest
from llmrun.engines.types import LoadPlan
from llmrun.hardware.types import Machine
from llmrun.models.types import LocalModel, ModelInfo

__all__ = ["Tuning", "forget_tuning", "keep_tuning", "kept_tuning", "open_tuning", "with_tuning"]

_FOLDER = "tuned"
_ASKED = ("threads", "gpu_layers", "kv_type", "parallel", "dtype", "quantization")
_FLASH = ("auto", "on", "off")
_MOST_BATCH_TOKENS = 512  # what memory plans reckon with


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings that were really faster than the defaults.

    Attributes:
        created: When, as `2026-11-25`.
        kv_type: Of the KV cache, gpu_layers: on the GPU; other than the usual ones only if lists of them were tried.
        gain: How many times as fast; low and high are its 95% interval.
    """

    created: str
    threads: int
    batch_tokens: int
    flash_attention: str
    gain: float
    low: float
    high: float
    kv_type: str = "f16"
    gpu_layers: int | None = None

    def request_for(self, request: PlanRequest) -> PlanRequest:
        """Return what a plan has to be made for."""
        return replace(request, kv_type=self.kv_type, gpu_layers=self.gpu_layers)


def keep_tuning(tuning: Tuning, model: LocalModel, facts: EngineFacts, machine: Machine) -> bool:
    """Keep what was found; return whether that could be done."""
    return all(keep(_FOLDER, kept_key(name, facts, machine), asdict(tuning)) for name in model_names(model))


def forget_tuning(model: LocalModel, facts: EngineFacts, machine: Machine) -> None:
    """Forget what was found before: the defaults are as fast."""
    for name in model_names(model):
        forget(_FOLDER, kept_key(name, facts, machine))


def kept_tuning(model: LocalModel, facts: EngineFacts, machine: Machine) -> Tuning | None:
    """Return what was found, or None; a damaged record counts as none."""
    for name in model_names(model):
        found = _parse(read_kept(_FOLDER, kept_key(name, facts, machine)), machine)
        if found is not None:
            return found
    return None


def _parse(value: Any, machine: Machine) -> Tuning | None:
    """Return what was kept; None if it is damaged."""
    try:
        found = Tuning(**value)
        datetime.date.fromisoformat(found.created)
        whole = type(found.threads) is int and type(found.batch_tokens) is int
        sound = found.flash_attention in _FLASH and 1 <= found.batch_tokens <= _MOST_BATCH_TOKENS
        sound = sound and found.kv_type in KV_BYTES and (found.gpu_layers is None or type(found.gpu_layers) is int)
        return found if whole and sound and 1 <= found.threads <= machine.cpu.logical_cores else None
    except (TypeError, ValueError):
        return None


def open_tuning(request: PlanRequest, model: LocalModel, facts: EngineFacts, machine: Machine) -> Tuning | None:
    """Return what was found, if the user left these choices open."""
    usual = PlanRequest()
    if any(getattr(request, name) != getattr(usual, name) for name in _ASKED) or request.vocabulary_only:
        return None
    return kept_tuning(model, facts, machine)


def with_tuning(plan: LoadPlan, found: Tuning, info: ModelInfo, machine: Machine) -> LoadPlan | None:
    """Return the plan, which was made for the tuning's KV type and layers, with the rest of it; None: no room."""
    if not _fits(plan, found, info, machine):
        return None
    return replace(
        plan,
        threads=found.threads,
        batch_tokens=found.batch_tokens,
        flash_attention=found.flash_attention,
        tuned=found.created,
    )


def _fits(plan: LoadPlan, found: Tuning, info: ModelInfo, machine: Machine) -> bool:
    """Return whether there is room for the scores of attention: one for each head, token of a batch, and cell."""
    if found.flash_attention != "off":
        return True
    scores = 4 * info.heads * found.batch_tokens * plan.context_length
    return plan.estimated_bytes + scores <= SHARE * machine.memory.available_bytes
