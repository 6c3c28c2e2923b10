"""What the loop of a chat needs of whatever reads the turns and shows the answers.

Two pairs keep to it: `piped` for pipes and files, `screen` for terminals. The loop knows neither.
"""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["AnswerStatus", "AnswerView", "TurnReader"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStatus:
    """What is said below an answer.

    Attributes:
        completion_tokens: Tokens of the answer, reasoning included.
        decode_tokens_per_second: How fast they came after the first one; 0 when there was one at most.
        first_seconds: From the end of the turn to the first piece of text (TTFT); 0 when there was none.
        context_used: Tokens of the prompt and the answer together.
        context_length: How many there is room for.
        engine: The engine's name.
    """

    completion_tokens: int
    decode_tokens_per_second: float
    first_seconds: float
    context_used: int
    context_length: int
    engine: str


class TurnReader(Protocol):
    """Where the turns of the user come from."""

    def read(self) -> str:
        """Return the next turn, with its newlines.

        Raises:
            EOFError: The user leaves: Ctrl-D, the end of the input, or Ctrl-C twice at an empty prompt.
        """
        ...


class AnswerView(Protocol):
    """Where the answers go; one object for the whole chat."""

    def begin(self) -> None:
        """An answer begins."""
        ...

    def feed(self, text: str) -> None:
        """Show a piece of it, as it came from the engine: reasoning and its marks included."""
        ...

    def end(self, *, cancelled: bool) -> None:
        """The answer is complete: end its last line, and mark it if it was cancelled."""
        ...

    def status(self, status: AnswerStatus) -> None:
        """Show what it took."""
        ...

    def notice(self, text: str) -> None:
        """Say something that is not part of an answer, on standard error."""
        ...
