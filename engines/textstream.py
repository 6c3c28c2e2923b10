"""From the bytes of tokens to text that can be shown: whole characters, and stop texts found across token edges."""

import codecs
from collections.abc import Sequence

__all__ = ["TextStream"]


class TextStream:
    """Decode token bytes incrementally and hold back what may turn out to be the start of a stop text.

    Args:
        stop: Texts that end the answer; the earliest match in the text wins and is left out.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Return the text that is certain after `data`; bytes that are no UTF-8 become U+FFFD."""
        return self._advance(self._decoder.decode(data), final=False)

    def finish(self) -> str:
        """Return what was held back, at the end of the answer."""
        return self._advance(self._decoder.decode(b"", True), final=True)

    def _advance(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        self._held = ""
        position = min((at for at in (text.find(stop) for stop in self._stop) if at >= 0), default=-1)
        if position >= 0:
            self.stopped = True
            return text[:position]
        if final:
            return text
        keep = max(_overlap(text, stop) for stop in self._stop)
        if keep:
            self._held = text[-keep:]
            return text[:-keep]
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
