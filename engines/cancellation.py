"""A request to stop that native code can see without calling back into Python.

llama.cpp asks an abort callback at every node of the compute graph, about a thousand times a token. A Python function
there would cost more than the token itself, so the flag is a byte in memory and the callback is C: `strlen` on that
byte returns 0 while it is NUL and 1 once it is set, which is what `bool (*)(void *)` is expected to return.
"""

import ctypes

__all__ = ["Cancellation"]


class Cancellation:
    """A flag that one thread sets and a compute loop reads."""

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self._flag[0] != b"\0"

    @property
    def address(self) -> int:
        """Address of the NUL-terminated flag, for a native callback; valid as long as this object lives."""
        return ctypes.addressof(self._flag)

    def request(self) -> None:
        """Ask to stop."""
        self._flag[0] = b"\1"

    def clear(self) -> None:
        """Forget an earlier request."""
        self._flag[0] = b"\0"
