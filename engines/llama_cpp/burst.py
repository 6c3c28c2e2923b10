"""Several tokens decoded and chosen in one call into the library, where none of them has to be looked at in between.

A token is computed by reading every weight, which leaves nothing of Python in the caches: lines that take 11
microseconds in a row take 80 after a token. So they are run once for many tokens. A burst ends when the time is
over (the next text is due), when the model ends its turn, or, if guesses are wanted, where the text ends with two
tokens that stood together before: only there is something to guess (`TextLookup`).

The libraries that llmrun builds have the function (`engines/install/candidates`); with others, tokens come one by one.
The tokens are the same.
"""

import ctypes
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["Burst", "can_burst"]

_MOST_TOKENS = 256  # in one burst
_BITS_PER_PAIR = 16  # of one pair in so many, it is believed wrongly that it came before, which ends a burst early
_LEAST_HASH_BITS = 10


class _Settings(ctypes.Structure):
    """`Burst` in decode_burst.cpp."""

    _fields_ = (
        ("vocabulary", ctypes.c_void_p),
        ("chain", ctypes.c_void_p),
        ("candidates", ctypes.c_int32),
        ("hash_bits", ctypes.c_int32),
        ("seen", ctypes.c_void_p),
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        ("seconds", ctypes.POINTER(ctypes.c_double)),
        ("status", ctypes.c_int32),
    )


class Burst:
    """The decode loop of one answer.

    Args:
        library: Has the functions.
        vocabulary: Of the model; the library's pointer.
        chain: The sampler chain that chooses among the candidates; None: the most likely one is taken.
        candidates: How many of the most likely tokens the chain is given.

    Attributes:
        tokens: What the last run chose. All of them but the last one have been processed.
        seconds: How long each of them took.
        began: When that run began, in seconds of `time.perf_counter`.
    """

    def __init__(self, library: Any, vocabulary: Any, chain: Any, candidates: int) -> None:
        self.tokens: list[int] = []
        self.seconds: list[float] = []
        self.began = 0.0
        self._decode = library["llmrun_decode_burst"]
        pointer, number = ctypes.c_void_p, ctypes.c_int32
        self._decode.argtypes, self._decode.restype = (pointer, pointer, number, number, ctypes.c_double), number
        self._mark_pairs = library["llmrun_mark_pairs"]
        self._mark_pairs.argtypes, self._mark_pairs.restype = (pointer, pointer, number), None
        self._tokens = (ctypes.c_int32 * _MOST_TOKENS)()
        self._moments = (ctypes.c_double * _MOST_TOKENS)()
        self._seen: Any = None
        self._marked = 0  # tokens of the text whose pairs are in `_seen`
        self._settings = _Settings(
            vocabulary=vocabulary,
            chain=ctypes.cast(chain, pointer),
            candidates=candidates,
            tokens=self._tokens,
            seconds=self._moments,
        )
        self._address = ctypes.addressof(self._settings)

    def end_at_known_pairs(self, text_tokens: int) -> None:
        """Have each run end where the last two tokens are neighbours that the text had before.

        Args:
            text_tokens: How long the text may become.
        """
        bits = max(_LEAST_HASH_BITS, (_BITS_PER_PAIR * text_tokens).bit_length())
        self._seen = (ctypes.c_uint64 * (1 << (bits - 6)))()
        self._settings.hash_bits = bits
        self._settings.seen = ctypes.addressof(self._seen)

    def run(self, context: Any, text: Sequence[int], most: int, seconds: float) -> int:
        """Run the last token of a text, then the one that is chosen after it, and so on.

        Returns:
            What the last llama_decode returned. If it failed, the tokens before that count.
        """
        if self._seen is not None:
            self._mark(text)
        self.began = time.perf_counter()
        count = self._decode(context, self._address, text[-1], min(most, _MOST_TOKENS), seconds)
        self.tokens = self._tokens[:count]
        moments = self._moments[:count]
        self.seconds = [now - before for now, before in zip(moments, [0.0, *moments], strict=False)]
        self._marked += count
        return int(self._settings.status)

    def _mark(self, text: Sequence[int]) -> None:
        """Mark the pairs of what the text has grown by since the last run."""
        if self._marked < len(text):
            new = text[max(0, self._marked - 1) :]
            self._mark_pairs(self._address, (ctypes.c_int32 * len(new))(*new), len(new))
            self._marked = len(text)


def can_burst(api: Any) -> bool:
    """Whether this build has the function."""
    return hasattr(api._lib, "llmrun_decode_burst")
