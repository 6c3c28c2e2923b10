"""The forward pass of transformers, with a cache that can be cut back: for every model that `slim` does not know."""

import importlib
from collections.abc import Sequence
from typing import Any

__all__ = ["LibraryDecoder"]


class LibraryDecoder:
    """A model of transformers, and keys and values of one sequence.

    Attributes:
        length: Tokens that the cache holds.
    """

    def __init__(self, model: Any) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._transformers: Any = importlib.import_module("transformers")
        self._model = model
        self._cache: Any = None
        self.length = 0

    def rewind(self, length: int) -> None:
        """Forget what came after the first `length` tokens; a cache that cannot be cut back is emptied."""
        if length >= self.length:
            return
        try:
            self._cache.crop(length)
            self.length = length
        except Exception:  # noqa: BLE001 - recurrent states and windows raise whatever their classes raise
            self._cache, self.length = None, 0

    def process(self, tokens: Sequence[int]) -> Any:
        """Take the next tokens and return the logits after the last of them, in float32, shape (vocabulary,)."""
        if self._cache is None:
            self._cache = self._transformers.DynamicCache(config=self._model.config)
        ids = self._torch.tensor([list(tokens)], device=self._model.get_input_embeddings().weight.device)
        found = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = found.past_key_values
        self.length += len(tokens)
        return found.logits[0, -1].float()
