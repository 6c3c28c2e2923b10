"""The token ids that engines are measured with: of ordinary words, and the same ones for every engine.

Random ids would do for a dense model; a mixture of experts sends them to other experts than it does words. No two
requests to one process begin alike, but where a depth is asked for, so that nothing is found in a cache.
"""

import hashlib
import random
from collections.abc import Callable, Sequence

from llmrun.engines.types import Segment

__all__ = ["Workload"]

_WORDS = """
the river rose after rain and old stones near mill kept their place while people walked home with bread wine letters
from distant friends about winter ships markets music gardens machines measured carefully each morning before light
came through narrow windows where someone had left a lamp burning next to open books
"""
_SIZE = 4099  # a prime, so that starts do not repeat until all were used
_STEP = 37


class Workload:
    """Prompts of any length for one process.

    Args:
        tokens: Ids of a long text.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens[:_SIZE])
        self._taken = 0

    @classmethod
    def from_tokenizer(cls, tokenize: Callable[[Sequence[Segment]], list[int]]) -> "Workload":
        """Return the prompts of a vocabulary: the same words in the same order each time."""
        draw, words = random.Random(20261120), _WORDS.split()  # noqa: S311 - no secrets
        text = " ".join(draw.choice(words) for _ in range(_SIZE))
        return cls(tokenize([Segment(text=text, special=False)]))

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids that all prompts are cut from."""
        return tuple(self._tokens)

    @property
    def digest(self) -> str:
        """What tells whether two measurements had the same ids."""
        return hashlib.sha256(" ".join(map(str, self._tokens)).encode()).hexdigest()[:16]

    def depth(self, count: int) -> list[int]:
        """Return what is in the context before a measurement; always the same."""
        return self._cut(0, count)

    def fresh(self, count: int) -> list[int]:
        """Return ids that begin where no prompt of this process began."""
        self._taken += 1
        return self._cut(self._taken * _STEP, count)

    def _cut(self, start: int, count: int) -> list[int]:
        size = len(self._tokens)
        return [self._tokens[(start + index) % size] for index in range(count)]
