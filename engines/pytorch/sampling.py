"""How the next token is chosen, with the meaning and the order of llama.cpp's sampler chain.

Penalties, then top-k, top-p, min-p, temperature, and a draw. Each of top-p and min-p sees the distribution that the one
before it left, renormalised, and at least one token always stays.

Source: llama_sampler_*_apply in src/llama-sampling.cpp of llama.cpp.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from llmrun.engines.types import SamplingOptions

__all__ = ["Sampler"]

_PENALTY_WINDOW = 64


class Sampler:
    """The choice of the tokens of one answer.

    Args:
        prompt: The tokens before it, which penalties look back on.
        options: What the user asked for.
        device: Where the logits are.
    """

    def __init__(self, prompt: Sequence[int], options: SamplingOptions, device: Any) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._options = options
        self._recent = list(prompt[-_PENALTY_WINDOW:])
        self._generator = self._torch.Generator(device=device)
        self._generator.manual_seed(options.seed)

    def choose(self, logits: Any) -> int:
        """Return the next token; `logits` (float32, one row) may be changed."""
        options = self._options
        if options.repeat_penalty != 1:
            self._penalise(logits)
        token = int(logits.argmax()) if options.temperature == 0 else self._draw(logits)
        self._recent = [*self._recent[1 - _PENALTY_WINDOW :], token]
        return token

    def _penalise(self, logits: Any) -> None:
        seen = self._torch.tensor(sorted(set(self._recent)), device=logits.device, dtype=self._torch.long)
        values = logits[seen]
        penalty = self._options.repeat_penalty
        logits[seen] = self._torch.where(values > 0, values / penalty, values * penalty)

    def _draw(self, logits: Any) -> int:
        torch, options = self._torch, self._options
        count = min(options.top_k, logits.shape[-1]) if options.top_k > 0 else logits.shape[-1]
        values, tokens = torch.topk(logits, count)
        if options.top_p < 1:
            sums = values.softmax(-1).cumsum(-1)
            kept = 1 + int((sums < options.top_p).sum())
            values, tokens = values[:kept], tokens[:kept]
        if options.min_p > 0:
            likely = values.softmax(-1)
            kept = max(1, int((likely >= options.min_p * likely[0]).sum()))
            values, tokens = values[:kept], tokens[:kept]
        chances = (values / options.temperature).softmax(-1)
        place = torch.multinomial(chances, 1, generator=self._generator)
        return int(tokens[place])
