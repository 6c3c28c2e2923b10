"""What is typed while an answer streams: not echoed into it, and there at the next prompt."""

import atexit
import contextlib
import termios

__all__ = ["Keyboard"]

_ECHO = termios.ECHO | termios.ECHONL
_LOCAL_FLAGS = 3
_CONTROL_CHARACTERS = 6


class Keyboard:
    """Switches the echo of the terminal behind standard input off and on; Ctrl-C works all the time.

    Characters are kept one by one rather than by lines, so that the next prompt finds the beginning of a line too.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._before: list[int | list[bytes | int]] | None = None

    def quiet(self) -> None:
        """Echo nothing from now on."""
        if self._before is not None:
            return
        with contextlib.suppress(termios.error):
            self._before = termios.tcgetattr(self._descriptor)
            atexit.register(self.restore)
            settings = termios.tcgetattr(self._descriptor)
            flags = settings[_LOCAL_FLAGS]
            assert isinstance(flags, int)
            settings[_LOCAL_FLAGS] = flags & ~(_ECHO | termios.ICANON)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, settings)

    def restore(self) -> None:
        """Have everything as it was."""
        if self._before is None:
            return
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        self._before = None
        atexit.unregister(self.restore)
