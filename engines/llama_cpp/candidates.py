"""The few most likely tokens, found in C before the samplers see them.

llama.cpp's chain begins by copying all logits of the vocabulary into a structure of three numbers each. The libraries
that llmrun builds have a function that finds the largest few instead (`engines/install/candidates`); other builds do
not have it, and there the chain does everything. The tokens that come out are the same.
"""

import ctypes
from typing import Any

from llmrun.engines.types import SamplingOptions
from llmrun.errors import EngineCrashedError

__all__ = ["Candidates", "find_candidates"]

_MOST = 256  # with more, a heap is slower than llama.cpp's own way


class Candidates:
    """The `count` most likely tokens of an output, the most likely first."""

    def __init__(self, api: Any, library: Any, vocabulary_size: int, count: int) -> None:
        self._size = vocabulary_size
        self.count = count
        # Functions of our own: those of the package make an object of every pointer.
        self._logits = library["llama_get_logits_ith"]
        self._logits.argtypes, self._logits.restype = (ctypes.c_void_p, ctypes.c_int32), ctypes.c_void_p
        self._find = library["llmrun_top_candidates"]
        self._find.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p)
        self._find.restype = ctypes.c_int32
        self._found = (api.llama_token_data * count)()
        self._address = ctypes.addressof(self._found)
        self._data = ctypes.cast(self._found, ctypes.POINTER(api.llama_token_data))
        self._array = api.llama_token_data_array()

    def best(self, context: Any, output: int) -> int:
        """Return the most likely token of one output of the last batch (-1: its last)."""
        self._read(context, output)
        return int(self._found[0].id)

    def array(self, context: Any, output: int) -> Any:
        """Return them as llama.cpp's samplers take them, sorted and with none selected."""
        array = self._array
        array.size = self._read(context, output)
        array.data = self._data
        array.selected = -1
        array.sorted = True
        return array

    def _read(self, context: Any, output: int) -> int:
        logits = self._logits(context, output)
        if not logits:
            raise EngineCrashedError("llama.cpp has no logits for a token that was computed")
        return int(self._find(logits, self._size, self.count, self._address))


def find_candidates(api: Any, vocabulary_size: int, options: SamplingOptions) -> Candidates | None:
    """Return how to find what the samplers choose from; None if they need all logits, or the build lacks the function.

    Penalties and grammars change logits before the largest are looked for, so both need all of them.
    """
    count = 1 if options.temperature == 0 else options.top_k
    if options.repeat_penalty != 1 or options.json_schema is not None or options.grammar is not None:
        return None
    if not 0 < count <= min(_MOST, vocabulary_size) or not hasattr(api._lib, "llmrun_top_candidates"):
        return None
    return Candidates(api, api._lib, vocabulary_size, count)
