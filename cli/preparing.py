"""From a command line to a model that is ready to be loaded: the same for `run`, its batches and `chat`."""

from typing import Protocol

from llmrun.engines.plan import PlanRequest
from llmrun.engines.prepare import Prepared, prepare, prepare_next
from llmrun.engines.types import EngineName, SamplingOptions

__all__ = ["Asked", "prepare_asked", "prepare_otherwise"]


class Asked(Protocol):
    """What a command line says of the model and its engine."""

    @property
    def model(self) -> str:
        """The model, as typed."""

    @property
    def plan(self) -> PlanRequest:
        """How it is to be loaded."""

    @property
    def engine(self) -> EngineName | None:
        """The engine that was asked for."""

    @property
    def draft(self) -> str | None:
        """The model that is to guess ahead, as typed."""

    @property
    def offline(self) -> bool:
        """The network may not be used."""

    @property
    def fallback(self) -> bool:
        """Another engine may be tried when one crashes."""

    @property
    def yes(self) -> bool:
        """A download needs no consent."""

    @property
    def quiet(self) -> bool:
        """Nothing is said but errors."""


def prepare_asked(asked: Asked, sampling: SamplingOptions) -> Prepared:
    """Find the model, downloading it if need be, and decide how to run it so that tokens can be chosen like that.

    Raises:
        LlmrunError: As `prepare` has it.
    """
    from llmrun.cli.first_use import before_download
    from llmrun.cli.progress import choose_progress

    return prepare(
        asked.model,
        asked.plan,
        engine=asked.engine,
        offline=asked.offline,
        progress=choose_progress(quiet=asked.quiet),
        draft=asked.draft,
        before_download=before_download(yes=asked.yes, quiet=asked.quiet),
        sampling=sampling,
    )


def prepare_otherwise(asked: Asked, prepared: Prepared, sampling: SamplingOptions) -> Prepared | None:
    """Return what to try after a crash: a new process where an old one died, else the next engine, if it is wanted."""
    if prepared.worker is not None:
        return prepare_asked(asked, sampling)
    return prepare_next(prepared, sampling) if asked.fallback else None
