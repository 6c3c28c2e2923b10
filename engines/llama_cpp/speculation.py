"""Decoding with guesses checked on the way, and the answer exactly what it is without.

A batch holds the last token and the guesses for what follows. Each of its outputs is sampled as if it stood alone, by
the same chain, until a sampled token is not the guessed one; what was guessed beyond is taken out of the cache again.
So every token is drawn from the model's own distribution with the same random numbers: a guess changes when a token is
computed, never which.

That is so up to rounding: some libraries compute a row of a batch by other steps than a single token, and a close call
between two tokens can then go the other way. With `auto`, which nobody asked for, guesses from the text are therefore
checked only where the logits of both ways were seen to be the same to the last bit; `on` takes them wherever they pay.

Tokens that nothing was guessed for are decoded in bursts: see `burst.py`.

Guesses come from the text (what followed the last time it ended like this) or else from a smaller model with the same
vocabulary. Models whose memory cannot go back a few tokens take no guesses.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from llmrun.engines.answer import Answer
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.burst import Burst
from llmrun.engines.llama_cpp.context import Context
from llmrun.engines.llama_cpp.sampling import Sampler
from llmrun.engines.speculation import DRAFT_KIND, MOST_GUESSES, Guess, GuessController, TextLookup
from llmrun.engines.types import Event

if TYPE_CHECKING:
    from llmrun.engines.llama_cpp.draft import DraftModel

__all__ = ["Decoder"]

_TRIAL_GUESSES = 4  # a batch of 5: libraries compute rows in fours, and the rest otherwise


class Decoder:
    """The decode loop of one loaded model; what it learns of costs and luck serves later answers too.

    Args:
        context: Where the prompt was processed.
        context_length: Most tokens of prompt and answer together.
        lookup: Whether to guess from the text: `auto` (where it pays and changes nothing), `on` (where it pays), `off`.
        draft: The model that guesses, if there is one.
    """

    def __init__(self, context: Context, context_length: int, lookup: str, draft: "DraftModel | None") -> None:
        self._context = context
        self._context_length = context_length
        self._uses_text = lookup != "off"
        self._draft = draft
        self._must_be_exact = lookup == "auto"
        self._exact: dict[tuple[bool, int], bool] = {}
        self._control = GuessController()
        self._guess_seconds = 0.0
        self._unchecked: Guess | None = None

    def decode(
        self,
        prompt: Sequence[int],
        sampler: Sampler,
        answer: Answer,
        cancel: Cancellation,
        after_first: Callable[[], None],
    ) -> Iterator[Event]:
        """Yield the text of an answer whose prompt has been processed, until it ends or is cancelled.

        `after_first` is called when the first token is out and none of the answer's has been processed.
        """
        text = list(prompt)
        lookup = TextLookup()
        yield from self._take(text, sampler, answer, None)
        after_first()
        burst = self._make_burst(sampler, answer, len(prompt))
        runs = True
        while runs and answer.finish is None and not cancel.requested and self._go_back(text):
            guess = self._guess(text, lookup, answer)
            if guess is None and burst is not None:
                runs = self._context.run_burst(burst, text, answer.left, answer.seconds_to_frame)
                yield from self._take_burst(text, burst, answer)
                continue
            first, began = len(text), time.perf_counter()
            runs = self._run(text[-1], guess)
            if runs:
                yield from self._take(text, sampler, answer, guess)
                self._learn(guess, len(text) - first - 1, time.perf_counter() - began, text[-1], answer)
        self._context.roll_back(len(text) - 1)

    def _make_burst(self, sampler: Sampler, answer: Answer, prompt_tokens: int) -> Burst | None:
        """Return what decodes an answer many tokens at a time where none is guessed; None if each has to be seen."""
        if self._draft is not None or answer.wants_logprobs:
            return None
        if answer.has_stop_texts and not self._context.can_be_cut:  # a stop text is found when more has been processed
            return None
        burst = sampler.make_burst()
        if burst is not None and self._uses_text:
            burst.end_at_known_pairs(prompt_tokens + answer.limit)
        return burst

    def _take_burst(self, text: list[int], burst: Burst, answer: Answer) -> Iterator[Event]:
        """Take the tokens of a burst up to the answer's end; yield what is to be shown."""
        moment = burst.began
        for token, seconds in zip(burst.tokens, burst.seconds, strict=True):
            moment += seconds
            text.append(token)
            self._control.observe(None, 0, seconds)
            self._control.watch(self._unchecked, token)
            self._unchecked = None  # a burst has ended where there would be another guess
            if delta := answer.add(token, moment=moment):
                yield delta
            if answer.finish is not None:
                return

    def _take(self, text: list[int], sampler: Sampler, answer: Answer, guess: Guess | None) -> Iterator[Event]:
        """Sample the outputs of the last batch, up to the first that is not as guessed; yield what is to be shown."""
        guessed = guess.tokens if guess else []
        for output in range(-len(guessed) - 1, 0):
            token = sampler.sample(self._context.pointer, output)
            text.append(token)
            if delta := answer.add(token, answer.describe(token, self._context.logit_values, output)):
                yield delta
            if answer.finish is not None or (output < -1 and token != guessed[output + 1 + len(guessed)]):
                return

    def _learn(self, guess: Guess | None, right: int, seconds: float, token: int, answer: Answer) -> None:
        self._control.observe(guess, right, seconds, self._guess_seconds)
        if guess is None:
            self._control.watch(self._unchecked, token)
            return
        self._control.forget_watched()
        answer.drafted_tokens += len(guess.tokens)
        answer.accepted_tokens += right

    def _go_back(self, text: Sequence[int]) -> bool:
        """Take out of the cache what was guessed wrong; process the text again if that cannot be done."""
        if self._context.roll_back(len(text) - 1):
            return True
        self._uses_text, self._draft = False, None
        return self._context.prefill(text[:-1])

    def _guess(self, text: Sequence[int], lookup: TextLookup, answer: Answer) -> Guess | None:
        """Return what to check with the next token, cut to the length that pays."""
        self._guess_seconds = 0.0
        most = min(MOST_GUESSES, answer.left - 1, self._context_length - len(text))
        guess = None
        if self._uses_text:
            lookup.extend(text[len(lookup) :])
            self._unchecked = guess = lookup.guess(most)
        if guess is not None:
            tokens = guess.tokens[: self._control.choose(guess.kind, len(guess.tokens))]
            if tokens and self._must_be_exact:
                tokens = tokens[: self._exact_length(text, tokens)]
            if tokens:
                return Guess(tokens, guess.kind)
        if self._draft is None:
            return None
        count = self._control.choose(DRAFT_KIND, most)
        if not count:
            return None
        began = time.perf_counter()
        tokens = self._draft.guess(text, count)
        self._guess_seconds = time.perf_counter() - began
        return Guess(tokens, DRAFT_KIND) if tokens else None

    def _exact_length(self, text: Sequence[int], guessed: Sequence[int]) -> int:
        """Return how many of the guesses can be checked without changing a bit of the logits; tried out once."""
        context = self._context
        regime = context.regime
        if regime not in self._exact:
            if len(guessed) < _TRIAL_GUESSES or not context.lasts(_TRIAL_GUESSES + 1):
                return 0
            if not self._try_out(text, guessed[:_TRIAL_GUESSES], regime):
                return 0
        if not self._exact[regime]:
            return 0
        return len(guessed) if context.lasts(len(guessed) + 1) else 0

    def _try_out(self, text: Sequence[int], guessed: Sequence[int], regime: tuple[bool, int]) -> bool:
        """Compare the logits of a single token with those of a batch; False if that was not brought to an end."""
        context, begin, began = self._context, len(self._context.processed), time.perf_counter()
        if not context.step(text[-1]):
            return False
        single = context.logits(-1)
        if context.roll_back(begin) and context.check([text[-1], *guessed]):
            self._exact[regime] = context.logits(-len(guessed) - 1) == single
            context.roll_back(begin)
        if len(context.processed) != begin:  # the memory could not go back, and nothing is left of it
            self._uses_text = False
            context.prefill(text[:-1])
            return False
        self._control.charge(time.perf_counter() - began)
        return regime in self._exact

    def _run(self, token: int, guess: Guess | None) -> bool:
        if guess is None:
            return self._context.step(token)
        return self._context.check([token, *guess.tokens])
