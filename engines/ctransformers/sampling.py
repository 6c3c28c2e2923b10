"""How the next token is chosen, with the meaning and the order of llama.cpp's sampler chain, on a row of numbers.

The library has a sampler of its own, which knows no min-p and orders the others differently.

Source: llama_sampler_*_apply in src/llama-sampling.cpp of llama.cpp.
"""

from collections.abc import Sequence
from typing import Any

from llmrun.engines.types import SamplingOptions

__all__ = ["Sampler"]

_PENALTY_WINDOW = 64


class Sampler:
    """The choice of the tokens of one answer.

    Args:
        numpy: The library.
        prompt: The tokens before the answer, which penalties look back on.
        options: What the user asked for.
    """

    def __init__(self, numpy: Any, prompt: Sequence[int], options: SamplingOptions) -> None:
        self._numpy = numpy
        self._options = options
        self._recent = list(prompt[-_PENALTY_WINDOW:])
        self._random = numpy.random.Generator(numpy.random.PCG64(options.seed))

    def choose(self, logits: Any) -> int:
        """Return the next token; `logits` (one row) may be changed."""
        options = self._options
        if options.repeat_penalty != 1:
            seen = sorted(set(self._recent))
            values = logits[seen]
            divided, multiplied = values / options.repeat_penalty, values * options.repeat_penalty
            logits[seen] = self._numpy.where(values > 0, divided, multiplied)
        token = int(logits.argmax()) if options.temperature == 0 else self._draw(logits)
        self._recent = [*self._recent[1 - _PENALTY_WINDOW :], token]
        return token

    def _draw(self, logits: Any) -> int:
        numpy, options = self._numpy, self._options
        count = min(options.top_k, len(logits)) if options.top_k > 0 else len(logits)
        best = numpy.argpartition(logits, -count)[-count:]
        tokens = best[numpy.argsort(-logits[best], kind="stable")]
        values = logits[tokens].astype(numpy.float64)
        if options.top_p < 1:
            sums = self._softmax(values).cumsum()
            kept = 1 + int((sums < options.top_p).sum())
            values, tokens = values[:kept], tokens[:kept]
        if options.min_p > 0:
            likely = self._softmax(values)
            kept = max(1, int((likely >= options.min_p * likely[0]).sum()))
            values, tokens = values[:kept], tokens[:kept]
        chances = self._softmax(values / options.temperature)
        return int(tokens[min(int(numpy.searchsorted(chances.cumsum(), self._random.random())), len(tokens) - 1)])

    def _softmax(self, values: Any) -> Any:
        powers = self._numpy.exp(values - values.max())
        return powers / powers.sum()
