"""One answer, token by token: the prompt in pieces, then a token at a time, with a look at cancellation in between.

What is multiplied with one row of numbers is rounded in another way than with many, so that in 16 bits a close call may
come out differently for a prompt of which all but the last token is there already. A repeatable answer must not depend
on that: it takes from before only whole pieces, which begin and end where they do when nothing is there. The next turn
of a conversation takes all that is there.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from llmrun.engines.answer import Answer
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.huggingface.grammar import Constraint
from llmrun.engines.pytorch.sampling import Sampler
from llmrun.engines.types import Event, TokenLogprob
from llmrun.errors import ModelFileError, NotEnoughMemoryError

__all__ = ["Decoder", "Sequencer"]

_FIRST_PIECE_TOKENS = 64


class Decoder(Protocol):
    """A forward pass with the keys and values of one sequence.

    Attributes:
        length: Tokens that it holds.
    """

    length: int

    def rewind(self, length: int) -> None:
        """Forget what came after the first `length` tokens."""

    def process(self, tokens: Sequence[int]) -> Any:
        """Take the next tokens and return the logits after the last of them."""


class Sequencer:
    """Answers one prompt after another, keeping what the last one and the next one have in common.

    Args:
        decoder: The forward pass.
        piece_tokens: Tokens of a prompt that are processed before a request to cancel is looked for.
        name: The model, for messages.
        look: Called after each piece and each token, to see what else the machine is doing.
    """

    def __init__(self, decoder: Decoder, piece_tokens: int, name: str, look: Callable[[], None] = lambda: None) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._decoder = decoder
        self._piece_tokens = piece_tokens
        self._name = name
        self._look = look
        self._processed: list[int] = []
        self._whole = 0  # so many of them were processed in whole pieces

    def write(
        self,
        prompt: Sequence[int],
        sampler: Sampler,
        answer: Answer,
        constraint: Constraint | None,
        cancel: Cancellation,
        *,
        in_pieces: bool = False,
    ) -> Iterator[Event]:
        """Yield the text of an answer as it comes; `answer` knows its end.

        Args:
            prompt: Its tokens.
            sampler: Chooses.
            answer: What takes the tokens.
            constraint: What may come next, or None.
            cancel: Asked after each piece and each token.
            in_pieces: Only whole pieces are taken from before, so that it does not change how this is computed.

        Raises:
            ModelFileError: The logits are not finite.
            NotEnoughMemoryError: The device has no room for the keys and values.
        """
        with self._torch.inference_mode():
            logits = self._prefill(prompt, answer, cancel, in_pieces=in_pieces)
            if logits is None:
                return
            answer.prefilled()
            if not bool(self._torch.isfinite(logits).all()):
                self._forget()
                raise ModelFileError(
                    f"the weights of {self._name} look damaged: the model's output is not finite",
                    fix="download the model again",
                )
            while True:
                token, described = self._choose(logits, sampler, answer, constraint)
                if delta := answer.add(token, described):
                    yield delta
                if answer.finish is not None or cancel.requested:
                    return
                logits = self._step([token])

    @staticmethod
    def _choose(
        logits: Any, sampler: Sampler, answer: Answer, constraint: Constraint | None
    ) -> tuple[int, TokenLogprob | None]:
        raw = logits.clone() if answer.wants_logprobs else logits
        if constraint is not None:
            constraint.apply(logits)
        token = sampler.choose(logits)
        if constraint is not None:
            constraint.accept([token])
        return token, answer.describe(token, lambda _output: raw.cpu().numpy(), -1)

    def _prefill(self, prompt: Sequence[int], answer: Answer, cancel: Cancellation, *, in_pieces: bool) -> Any:
        """Process what is new of a prompt; None if it was cancelled."""
        shared = min(_shared(self._processed, prompt), len(prompt) - 1)
        self._decoder.rewind(self._last_piece_end(min(shared, self._whole)) if in_pieces else shared)
        begin = self._decoder.length
        del self._processed[begin:]
        self._whole = self._last_piece_end(min(self._whole, begin))
        answer.cached_tokens = begin
        logits = None
        while begin < len(prompt):
            if cancel.requested:
                return None
            end = self._piece_end(begin)
            logits = self._step(prompt[begin:end])
            begin = end
        return logits

    def _piece_end(self, begin: int) -> int:
        """Return where the piece ends that begins there: the first one is short, to see a request to cancel soon."""
        first = min(_FIRST_PIECE_TOKENS, self._piece_tokens)
        return first if begin < first else (begin // self._piece_tokens + 1) * self._piece_tokens

    def _last_piece_end(self, tokens: int) -> int:
        """Return the last end of a piece that is not behind so many tokens."""
        first = min(_FIRST_PIECE_TOKENS, self._piece_tokens)
        return max(tokens // self._piece_tokens * self._piece_tokens, first if tokens >= first else 0)

    def _step(self, tokens: Sequence[int]) -> Any:
        try:
            logits = self._decoder.process(tokens)
        except RuntimeError as error:
            self._forget()
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if "out of memory" in text.lower() or "can't allocate memory" in text.lower():
                raise NotEnoughMemoryError(
                    f"pytorch ran out of memory: {text[:200]}", fix="a smaller --context-length"
                ) from error
            raise
        self._look()
        begin = len(self._processed)
        self._processed += tokens
        if self._whole == begin and len(self._processed) == self._piece_end(begin):
            self._whole = len(self._processed)
        return logits

    def _forget(self) -> None:
        self._decoder.rewind(0)
        self._processed, self._whole = [], 0


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
