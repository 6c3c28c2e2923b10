"""What every engine adapter looks like, so that two of them can be read side by side.

An adapter imports its native package inside `load`, never at module level: only the worker process calls it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.types import EngineName, Event, LoadPlan, SamplingOptions, Segment

__all__ = ["Engine", "Session"]


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
