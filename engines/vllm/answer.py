"""One answer while it is written: its text, its log probabilities, its limits and its counts.

Text is handed out in frames of a screen's length, not token by token: every frame wakes the process that shows it.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer
from llmrun.engines.textstream import TextStream
from llmrun.engines.types import Delta, Done, Event, FinishReason, SamplingOptions, Stats, TokenLogprob

__all__ = ["Answer"]

_FRAME_SECONDS = 1 / 60


class Answer:
    """What has been said so far, and whether that is all.

    Attributes:
        finish: Why the answer ended, or None while it goes on.
        limit: Most tokens that it may have.
        cached_tokens: Tokens of the prompt that did not have to be processed.
    """

    def __init__(
        self, tokenizer: HuggingFaceTokenizer, prompt_tokens: int, options: SamplingOptions, context_length: int
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_tokens = prompt_tokens
        self._alternatives = options.logprobs
        room = context_length - prompt_tokens
        self.limit = room if options.max_tokens is None else min(room, options.max_tokens)
        self._at_limit = FinishReason.CONTEXT if self.limit == room else FinishReason.LENGTH
        self.finish: FinishReason | None = None if self.limit > 0 else self._at_limit
        self._stream = TextStream(options.stop)
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._count = 0
        self._shown = 0.0
        self._started = self._first = self._last = time.perf_counter()
        self.cached_tokens = 0

    def add(self, tokens: list[int], logprobs: list[Mapping[int, Any]] | None) -> Delta | None:
        """Take the next tokens; return what is due to be shown, often nothing."""
        now = self._last = time.perf_counter()
        if not self._count:
            self._first = now
        for number, token in enumerate(tokens):
            if self.finish is not None:
                break
            self._add_one(token, logprobs[number] if logprobs else None)
        if (self._text or self._logprobs) and now - self._shown >= _FRAME_SECONDS:
            self._shown = now
            return self._take()
        return None

    def _add_one(self, token: int, likely: Mapping[int, Any] | None) -> None:
        if self._tokenizer.is_end(token):
            self.finish = FinishReason.STOP
            return
        self._count += 1
        if self._alternatives is not None and likely is not None:
            self._logprobs.append(self._describe(token, likely))
        self._text += self._stream.feed(self._tokenizer.token_bytes(token))
        if self._stream.stopped:
            self.finish = FinishReason.STOP
        elif self._count >= self.limit:
            self.finish = self._at_limit

    def _describe(self, token: int, likely: Mapping[int, Any]) -> TokenLogprob:
        ranked = sorted(likely.items(), key=lambda item: (-item[1].logprob, item[0]))[: self._alternatives or 0]
        return TokenLogprob(
            id=token,
            text=self._tokenizer.token_text(token),
            logprob=float(likely[token].logprob),
            top=tuple((each, self._tokenizer.token_text(each), float(entry.logprob)) for each, entry in ranked),
        )

    def _take(self) -> Delta:
        delta = Delta(text=self._text, logprobs=tuple(self._logprobs))
        self._text, self._logprobs = "", []
        return delta

    def end(self) -> Iterator[Event]:
        """Yield what is left of the text, then `Done`; an answer that had not ended was cancelled."""
        self._text += self._stream.finish()
        if self._text or self._logprobs:
            yield self._take()
        stats = Stats(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._count,
            prefill_seconds=self._first - self._started,
            decode_seconds=self._last - self._first,
            cached_tokens=self.cached_tokens,
        )
        yield Done(finish_reason=self.finish or FinishReason.CANCELLED, stats=stats)
