"""How likely the model held the tokens of an answer: its own distribution, before any sampling option."""

import importlib
from typing import Any, Protocol

from llmrun.engines.types import TokenLogprob

__all__ = ["describe_token"]


class _Texts(Protocol):
    def token_text(self, token: int) -> str: ...


def describe_token(logits: Any, token: int, alternatives: int, texts: _Texts) -> TokenLogprob:
    """Return the log probability of a token, and of the likeliest ones in its place.

    log p(i) = z_i - log Σ_j exp z_j, with the largest logit taken out of the sum so that it cannot overflow.

    Args:
        logits: One row of numbers, length of the vocabulary (a numpy array).
        token: The one that was chosen.
        alternatives: How many of the likeliest to list.
        texts: Gives the text of a token by itself.
    """
    numpy: Any = importlib.import_module("numpy")
    row = numpy.asarray(logits, dtype=numpy.float64)
    largest = row.max()
    total = largest + numpy.log(numpy.exp(row - largest).sum())
    count = min(alternatives, len(row))
    best = numpy.argpartition(row, -count)[-count:] if count else numpy.empty(0, dtype=int)
    ranked = sorted((int(each) for each in best), key=lambda each: (-row[each], each))
    return TokenLogprob(
        id=token,
        text=texts.token_text(token),
        logprob=float(row[token] - total),
        top=tuple((each, texts.token_text(each), float(row[each] - total)) for each in ranked),
    )
