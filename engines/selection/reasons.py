"""The vocabulary of a choice: why an engine can or cannot run a model here, in stable codes.

A reason is written for a person (`detail`, as the end of a sentence that begins with the engine's name) and has a code
for programs. Codes never change their meaning; docs/reason-codes.md lists them.
"""

from enum import StrEnum

from llmrun.engines.types import EngineName
from llmrun.values import value

__all__ = ["Reason", "ReasonCode", "Selection", "Severity", "Verdict"]


class ReasonCode(StrEnum):
    """Everything that can speak against an engine."""

    FORMAT = "format"
    QUANTIZATION = "quantization"
    PLATFORM = "platform"
    NO_GPU = "no-gpu"
    COMPUTE_CAPABILITY = "compute-capability"
    GPU_BUILD_MISSING = "gpu-build-missing"
    ARCHITECTURE = "architecture"
    ARCHITECTURE_UNKNOWN = "architecture-unknown"
    DROPPED_BY_VERSION = "dropped-by-version"
    NOT_INSTALLED = "not-installed"
    CRASHES = "crashes"
    MEMORY = "memory"
    NO_ADAPTER = "no-adapter"
    SLOWER = "slower"
    REMOTE_CODE = "remote-code"


class Severity(StrEnum):
    """How much a reason weighs."""

    BLOCKS = "blocks"
    """The engine cannot run the model here, not even when it is asked for."""
    DEMOTES = "demotes"
    """It is not chosen by itself, but `--engine` is honoured."""
    NOTE = "note"
    """Worth knowing; it changes nothing."""


@value
class Reason:
    """One fact about an engine and a model.

    Attributes:
        code: Stable, for programs.
        detail: What was needed and what was found, as the end of a sentence that begins with the engine's name.
        fix: A command or an option to type, or None.
        severity: How much it weighs.
    """

    code: ReasonCode
    detail: str
    fix: str | None = None
    severity: Severity = Severity.BLOCKS


@value
class Verdict:
    """Whether an engine would be chosen for the model here. `reasons` holds all of them, not the first one."""

    engine: EngineName
    eligible: bool
    reasons: tuple[Reason, ...]

    @property
    def blockers(self) -> tuple[Reason, ...]:
        """The reasons for which it cannot work at all."""
        return tuple(reason for reason in self.reasons if reason.severity is Severity.BLOCKS)

    @property
    def objections(self) -> tuple[Reason, ...]:
        """The reasons for which it is not eligible: what blocks it and what demotes it."""
        return tuple(reason for reason in self.reasons if reason.severity is not Severity.NOTE)


@value
class Selection:
    """The engine that was chosen, why, and the verdict on each of them, best first."""

    chosen: EngineName
    because: str
    verdicts: tuple[Verdict, ...]
