"""How many tokens the library can process at once without writing beyond its buffers.

Of all model types but llama and falcon, an evaluation takes its memory from buffers of 256 MiB: one pool for the whole
graph, and for some types two more that are used anew in every layer. Whoever asks for more gets a crash. The library
makes the pool larger by what the first evaluation has needed for a token, which says too little: attention needs more
as the text grows, and some types copy all values of a layer. So what a piece of a prompt may need at most is computed
here, and pieces are kept below it. Where even one token would not fit at the end of the context, the first evaluation
is made to be one of much memory, and the pool is large enough from then on.

Source: the functions `…_eval` in models/llms/*.cc of ctransformers 0.2.27; the bounds are generous.
"""

from dataclasses import dataclass
from typing import NamedTuple

from llmrun.models.ggml.types import GgmlShape

__all__ = ["EvaluationRoom", "Growth"]

_FIRST_POOL_BYTES = _SCRATCH_BYTES = 248 << 20  # 256 MiB, less a margin
_MOST_TOKENS = 512
_FALCON_TOKENS = 64  # its scratch buffers are those of the published models, and are not documented
_FLOAT = 4
_WIDTHS = 56  # rows of a token in a layer, counted in embedding lengths: 46 of gpt2, which has the most
_OBJECTS_BYTES = 32 << 10  # descriptions of a layer's tensors
_LOGIT_ROWS, _LAST_WIDTHS = 3, 8


class _Kind(NamedTuple):
    """How a model type computes attention.

    Attributes:
        scratch: Whether a layer's memory is used again by the next one.
        scores: Copies of the attention scores, each of (heads, tokens, context) floats.
        value_bytes: Size of an element of the copy of all values; 0 where there is no copy.
    """

    scratch: bool
    scores: int
    value_bytes: int


_KINDS = {
    "gpt2": _Kind(scratch=False, scores=1, value_bytes=4),
    "gptj": _Kind(scratch=False, scores=1, value_bytes=0),
    "dolly-v2": _Kind(scratch=False, scores=1, value_bytes=0),
    "replit": _Kind(scratch=False, scores=5, value_bytes=2),
    "gpt_neox": _Kind(scratch=True, scores=1, value_bytes=0),
    "starcoder": _Kind(scratch=True, scores=1, value_bytes=4),
    "mpt": _Kind(scratch=True, scores=5, value_bytes=2),
}


class Growth(NamedTuple):
    """Two evaluations that make the pool larger: one token at `position`, then `tokens` of them at the beginning.

    `pool_bytes` is the least that the pool has then.
    """

    position: int
    tokens: int
    pool_bytes: int


@dataclass(frozen=True, slots=True)
class EvaluationRoom:
    """The memory that one evaluation may need, for one model.

    Attributes:
        model_type: As ctransformers calls it.
        shape: Hyper-parameters.
        context_length: Tokens that there is room for in the cache.
    """

    model_type: str
    shape: GgmlShape
    context_length: int

    def most_tokens(self, position: int) -> int:
        """Return how many tokens can be processed at once behind the first `position` ones; at least 1."""
        if self.model_type not in _KINDS:
            return _FALCON_TOKENS if self.model_type == "falcon" else _MOST_TOKENS
        # After a growth the library takes every token for as large as that one was, and would make more room for more.
        growth = self.growth()
        most = _MOST_TOKENS if growth is None else growth.tokens
        pool_bytes = _FIRST_POOL_BYTES if growth is None else growth.pool_bytes
        while most > 1 and not self._fits(most, position + most, pool_bytes):
            most = most * 3 // 4
        return most

    def usable_context(self) -> int:
        """Return how many tokens of context can be computed with: the scratch buffers of a layer never grow."""
        kind = _KINDS.get(self.model_type)
        if kind is None or not kind.scratch:
            return self.context_length
        most = self.context_length
        while most > 1 and self._layer_bytes(kind, 1, most) > _SCRATCH_BYTES:
            most = most * 15 // 16
        return most

    def growth(self) -> Growth | None:
        """Return how to make the pool large enough for one token at the end of the context; None: it is."""
        kind = _KINDS.get(self.model_type)
        if kind is None or kind.scratch or self._fits(1, self.context_length):
            return None
        position = self.context_length - 1
        while position > 1 and not self._fits(1, position + 1):
            position = position * 7 // 8
        certain = kind.value_bytes * self.shape.layers * self.shape.width * position
        if not certain:
            return None
        tokens = min(1 - -self._pool_bytes(kind, 1, self.context_length) // certain, self.context_length)
        return Growth(position, tokens, tokens * certain)

    def _fits(self, tokens: int, length: int, pool_bytes: int = _FIRST_POOL_BYTES) -> bool:
        kind = _KINDS[self.model_type]
        if kind.scratch and self._layer_bytes(kind, tokens, length) > _SCRATCH_BYTES:
            return False
        return self._pool_bytes(kind, tokens, length) <= pool_bytes

    def _layer_bytes(self, kind: _Kind, tokens: int, length: int) -> int:
        shape = self.shape
        rows = _FLOAT * _WIDTHS * tokens * shape.width
        scores = _FLOAT * kind.scores * shape.heads * tokens * length
        return rows + scores + kind.value_bytes * length * shape.width

    def _pool_bytes(self, kind: _Kind, tokens: int, length: int) -> int:
        """Return a bound of what the graph takes from the pool, its work buffer among it."""
        shape = self.shape
        layers = 0 if kind.scratch else shape.layers * self._layer_bytes(kind, tokens, length)
        last = _FLOAT * tokens * (_LAST_WIDTHS * shape.width + _LOGIT_ROWS * shape.vocabulary)
        work = _FLOAT * tokens * max(4 * shape.width, shape.heads * length)
        return layers + shape.layers * _OBJECTS_BYTES + last + work
