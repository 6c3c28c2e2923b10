"""One answer while it is written: its text, its limits and its counts. The same for every engine.

Text is handed out in frames, not token by token: every frame wakes the process that shows it, on one of the processors
that compute. Nobody reads faster than that.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from llmrun.engines.textstream import TextStream
from llmrun.engines.types import Delta, Done, Event, FinishReason, SamplingOptions, Stats, TokenLogprob

__all__ = ["Answer", "TokenTexts"]

_FRAME_SECONDS = 1 / 30


class TokenTexts(Protocol):
    """What an answer needs of a vocabulary."""

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for a control token."""

    def token_text(self, token: int) -> str:
        """Return the text of one token by itself."""

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""


class Answer:
    """What has been said so far, and whether that is all.

    Attributes:
        finish: Why the answer ended, or None while it goes on.
        limit: Most tokens that it may have.
        has_stop_texts: Whether it may end in the middle of what the model says.
        cached_tokens: Tokens of the prompt that did not have to be processed.
        drafted_tokens: Tokens that were guessed ahead.
        accepted_tokens: How many of those were right.
    """

    def __init__(
        self, vocabulary: TokenTexts, prompt_tokens: int, options: SamplingOptions, context_length: int
    ) -> None:
        self._vocabulary = vocabulary
        self._prompt_tokens = prompt_tokens
        self._alternatives = options.logprobs
        self.has_stop_texts = bool(options.stop)
        self._ends = not options.ignore_end
        self._times: list[float] | None = [] if options.timed else None
        room = context_length - prompt_tokens
        self.limit = room if options.max_tokens is None else min(room, options.max_tokens)
        self._at_limit = FinishReason.CONTEXT if self.limit == room else FinishReason.LENGTH
        self.finish: FinishReason | None = None if self.limit > 0 else self._at_limit
        self._stream = TextStream(options.stop)
        self._held = ""
        self._logprobs: list[TokenLogprob] = []
        self._shown = 0.0
        self._count = 0
        self._started = self._first = self._last = time.perf_counter()
        self.cached_tokens = self.drafted_tokens = self.accepted_tokens = 0

    @property
    def wants_logprobs(self) -> bool:
        """Whether log probabilities were asked for."""
        return self._alternatives is not None

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self.limit - self._count

    @property
    def seconds_to_frame(self) -> float:
        """How long it is until text is due to be shown."""
        return max(0.0, self._shown + _FRAME_SECONDS - time.perf_counter())

    def begin(self, already_seconds: float = 0.0) -> None:
        """Start the clock of the prefill, which took `already_seconds` before this."""
        self._started = self._first = self._last = time.perf_counter() - already_seconds

    def prefilled(self) -> None:
        """Say that the logits of the prompt's last token are there."""
        self._first = self._last = time.perf_counter()

    def add(self, token: int, logprob: TokenLogprob | None = None, moment: float | None = None) -> Delta | None:
        """Take the next token, which came at `moment` (None: now); return what is due to be shown, often nothing."""
        if self._ends and self._vocabulary.is_end(token):
            self.finish = FinishReason.STOP
            return None
        now = self._last = time.perf_counter() if moment is None else moment
        if self._times is not None:
            self._times.append(now)
        self._count += 1
        if self._count == 1:
            self._first = now
        if logprob is not None:
            self._logprobs.append(logprob)
        self._held += self._stream.feed(self._vocabulary.token_bytes(token))
        if self._stream.stopped:
            self.finish = FinishReason.STOP
        elif self._count >= self.limit:
            self.finish = self._at_limit
        if self._held and now - self._shown >= _FRAME_SECONDS:
            self._shown = now
            return self._take()
        return None

    def describe(self, token: int, logits: Callable[[int], Any], output: int) -> TokenLogprob | None:
        """Return how likely a token was, if that is wanted; `logits` gives the row of an output then."""
        if self._alternatives is None or self._vocabulary.is_end(token):
            return None
        from llmrun.engines.logprobs import describe_token

        return describe_token(logits(output), token, self._alternatives, self._vocabulary)

    def _take(self) -> Delta:
        delta = Delta(text=self._held, logprobs=tuple(self._logprobs))
        self._held = ""
        self._logprobs = []
        return delta

    def end(self) -> Iterator[Event]:
        """Yield what is left of the text, then `Done`; an answer that had not ended was cancelled."""
        self._held += self._stream.finish()
        if self._held or self._logprobs:
            yield self._take()
        stats = Stats(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._count,
            prefill_seconds=self._first - self._started,
            decode_seconds=self._last - self._first,
            cached_tokens=self.cached_tokens,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            token_times=tuple(self._times or ()),
        )
        yield Done(finish_reason=self.finish or FinishReason.CANCELLED, stats=stats)
