"""Text to tokens and back, with the vocabulary that is in the model's file.

Control tokens are recognised in `special` segments only: a user's text can never become one.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

from llmrun.engines.conversation.reasoning import MARKS
from llmrun.engines.llama_cpp.native import Native
from llmrun.engines.types import Segment

__all__ = ["Vocabulary"]


class Vocabulary:
    """The vocabulary of a loaded model.

    Attributes:
        pointer: What the library's own functions want.
        size: Number of tokens, which is the number of logits too.
    """

    def __init__(self, native: Native, model: Any) -> None:
        self._api = native.api
        self.pointer = self._api.llama_model_get_vocab(model)
        self.size = int(self._api.llama_vocab_n_tokens(self.pointer))
        self._piece = ctypes.create_string_buffer(256)
        self._known: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids; BOS comes first once, if the model wants one."""
        tokens: list[int] = []
        for segment in segments:
            tokens += self._tokenize(segment)
        if self._api.llama_vocab_get_add_bos(self.pointer):
            bos = self._api.llama_vocab_bos(self.pointer)
            if bos >= 0 and tokens[:1] != [bos]:
                tokens.insert(0, bos)
        return tokens

    def _tokenize(self, segment: Segment) -> list[int]:
        data = segment.text.encode("utf-8", "replace")
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        tokenize = self._api.llama_tokenize
        count = tokenize(self.pointer, data, len(data), buffer, room, False, segment.special)
        if count < 0:
            buffer = (ctypes.c_int32 * -count)()
            count = tokenize(self.pointer, data, len(data), buffer, -count, False, segment.special)
        return list(buffer[:count])

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for a control token, unless it marks what a model thinks.

        They are kept: after a token was computed, the caches hold weights, and a call into the library takes longer.
        """
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._read_piece(token)
        return known

    def _read_piece(self, token: int) -> bytes:
        text = self._piece_of(token, special=False)
        if text:
            return text
        mark = self._piece_of(token, special=True)
        return mark if mark.decode("utf-8", "replace") in MARKS else b""

    def _piece_of(self, token: int, *, special: bool) -> bytes:
        size = self._api.llama_token_to_piece(self.pointer, token, self._piece, len(self._piece), 0, special)
        if size < 0:
            self._piece = ctypes.create_string_buffer(-size)
            size = self._api.llama_token_to_piece(self.pointer, token, self._piece, -size, 0, special)
        return self._piece.raw[:size]

    def token_text(self, token: int) -> str:
        """Return the text of one token by itself; U+FFFD stands for parts of characters."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        ends = self._ends.get(token)
        if ends is None:
            ends = self._ends[token] = bool(self._api.llama_vocab_is_eog(self.pointer, token))
        return ends
