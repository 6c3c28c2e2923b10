"""What every engine adapter looks like, so that two of them can be read side by side.

An adapter imports its native package inside `load`, never at module level: only the worker process calls it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.types import EngineName, Event, LoadPlan, SamplingOptions, Segment
from llmrun.errors import LlmrunError, PromptTooLongError, UsageError
from llmrun.values import value

__all__ = [
    "BatchEvent",
    "BatchRequest",
    "Engine",
    "Failure",
    "Phased",
    "Preloading",
    "Session",
    "check_prompt",
    "generate_one_by_one",
]


@value
class BatchRequest:
    """One of many prompts; its events carry its id."""

    id: str
    tokens: Sequence[int]
    options: SamplingOptions


@value
class Failure:
    """The end of a request that could not be answered; the others go on."""

    error: LlmrunError


BatchEvent = Event | Failure


class Session(Protocol):
    """One loaded model."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together, as the engine really set it up."""

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn a rendered prompt into token ids, with the BOS token in front once if the model wants one."""

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Yield deltas as they are decoded, then one `Done`; end within a second of a request to cancel.

        Raises:
            ModelFileError: The logits are not finite: the weights are damaged.
        """

    def generate_many(
        self, requests: Iterable[BatchRequest], parallel: int, cancel: Cancellation
    ) -> Iterator[tuple[str, BatchEvent]]:
        """Answer many prompts, up to `parallel` of them at once; the events of different ids are interleaved.

        Each id ends with exactly one `Done` or `Failure`. After a request to cancel, every answer that was not
        complete ends as cancelled, whether it had begun or not. To take the next request may take a while, because
        whoever sends it has to make it, but not longer than that.
        """

    def close(self) -> None:
        """Give the memory back."""


class Engine(Protocol):
    """One inference library."""

    name: EngineName

    def load(self, plan: LoadPlan, progress: Callable[[float], None]) -> Session:
        """Load the model; `progress` gets the share that has been read.

        Raises:
            ModelFileError: The library refused the file; the message carries its own words.
            NotEnoughMemoryError: The library could not allocate what the plan needs.
        """


@runtime_checkable
class Preloading(Protocol):
    """An engine that can read weights before it is known how they are to be used."""

    def preload(self, path: str, progress: Callable[[float], None]) -> None:
        """Load the weights for a plan that wants nothing special; `load` takes them if its plan is such a one.

        Raises:
            LlmrunError: They cannot be loaded; `load` will say so too.
        """


@runtime_checkable
class Phased(Protocol):
    """An engine whose start has parts that take long.

    Attributes:
        phase: What it is doing while `load` runs, for people; empty: nothing to name.
    """

    phase: str


def check_prompt(tokens: Sequence[int], context_length: int) -> None:
    """Refuse a prompt that leaves nothing to do or no room to do it.

    Raises:
        UsageError: It has no tokens.
        PromptTooLongError: The context cannot hold it and one token of the answer.
    """
    if not tokens:
        raise UsageError("the prompt is empty: it has no tokens", fix="give a prompt")
    if len(tokens) >= context_length:
        raise PromptTooLongError(
            f"the prompt has {len(tokens):,} tokens and the context holds {context_length:,}, "
            "of which at least one is for the answer",
            fix="a larger --context-length, a shorter prompt, or --on-overflow to have some of it left out",
        )


def generate_one_by_one(
    session: Session, requests: Iterable[BatchRequest], cancel: Cancellation
) -> Iterator[tuple[str, BatchEvent]]:
    """Answer many prompts one after another: what an engine without parallel sequences does."""
    for request in requests:
        try:
            check_prompt(request.tokens, session.context_length)
            for event in session.generate(request.tokens, request.options, cancel):
                yield request.id, event
        except LlmrunError as error:
            yield request.id, Failure(error=error)
