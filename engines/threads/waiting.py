"""How long the threads of this process have waited for a core although they were ready to run: Linux keeps count.

Undisturbed, compute threads wait for less than a hundredth of the time. If another program wants their cores, they
wait for as long as it runs: the surest sign of it, and seen at once, without knowing how fast it would go without.
"""

import contextlib
import os
import threading
from pathlib import Path

__all__ = ["ThreadWaiting"]

_TASKS = Path("/proc/self/task")
_NANOSECONDS = 1e-9
_LINE_BYTES = 128


class ThreadWaiting:
    """Sums up the waiting of the calling thread and of those that native code started; Python's others do not compute.

    The files are kept open, because reading one again takes two microseconds.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._ended = 0.0
        self._last: dict[str, float] = {}

    @staticmethod
    def available() -> bool:
        """Return whether this system keeps count."""
        return (_TASKS / str(threading.get_native_id()) / "schedstat").exists()

    def refresh(self) -> None:
        """Look which threads there are: after the compute threads were started, and when they may have changed."""
        others = {str(thread.native_id) for thread in threading.enumerate()} - {str(threading.get_native_id())}
        wanted = {path.name for path in _TASKS.iterdir()} - others
        for name in set(self._files) - wanted:
            self._drop(name)
        for name in wanted - set(self._files):
            with contextlib.suppress(OSError):
                self._files[name] = os.open(_TASKS / name / "schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> float:
        """Return the seconds waited since the threads began, all together; it never falls."""
        for name, file in list(self._files.items()):
            try:
                # Source: Documentation/scheduler/sched-stats.rst: run time, waiting time (ns), time slices
                self._last[name] = int(os.pread(file, _LINE_BYTES, 0).split()[1]) * _NANOSECONDS
            except (OSError, ValueError, IndexError):
                self._drop(name)
        return self._ended + sum(self._last.values())

    def close(self) -> None:
        """Close the files."""
        for name in list(self._files):
            self._drop(name)

    def _drop(self, name: str) -> None:
        os.close(self._files.pop(name))
        self._ended += self._last.pop(name, 0.0)
