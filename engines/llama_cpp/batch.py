"""A llama.cpp batch that is filled and run again and again: tokens with their positions, sequences and outputs."""

from collections.abc import Sequence
from typing import Any

__all__ = ["Batch"]


class Batch:
    """Room for `capacity` tokens of any sequences.

    Attributes:
        native: The structure that llama_decode takes.
    """

    def __init__(self, api: Any, capacity: int) -> None:
        self._api = api
        self.native = api.llama_batch_init(capacity, 0, 1)
        self.clear()

    def __len__(self) -> int:
        return int(self.native.n_tokens)

    def clear(self) -> None:
        """Forget the tokens."""
        self.native.n_tokens = 0

    def add(self, tokens: Sequence[int], position: int, sequence: int, outputs: int) -> None:
        """Add tokens of one sequence from `position` on; the last `outputs` of them give logits."""
        batch, index = self.native, self.native.n_tokens
        silent = len(tokens) - outputs
        for offset, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = position + offset
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = offset >= silent
            index += 1
        batch.n_tokens = index

    def close(self) -> None:
        """Free the arrays."""
        if self.native is not None:
            self._api.llama_batch_free(self.native)
            self.native = None
