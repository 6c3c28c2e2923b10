"""Where a model would run, with which engines, and what the user insists on: everything but the model itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine

__all__ = ["Setting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The circumstances of a choice.

    Attributes:
        machine: This one, or another.
        engines: What is installed there.
        request: Context length and the other wishes that decide how much memory is needed.
        forced: The engine that the user asked for.
        runnable: The engines that can be driven; None judges by the rules alone.
        measured: Whether what was measured on this machine counts.
    """

    machine: Machine
    engines: Mapping[EngineName, EngineFacts]
    request: PlanRequest
    forced: EngineName | None = None
    runnable: frozenset[EngineName] | None = None
    measured: bool = False

    def gpu_support(self, engine: EngineName) -> bool | None:
        """Return whether the build of an engine can use a GPU; None when that cannot be told."""
        facts = self.engines.get(engine)
        return None if facts is None else facts.gpu_support

    def own_kernels(self, engine: EngineName) -> frozenset[str] | None:
        """Return the tensor types for which its build has kernels of llmrun's own; None: it is yet to be built."""
        facts = self.engines.get(engine)
        return None if facts is None else facts.own_kernels
