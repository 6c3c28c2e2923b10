"""How many of this process's cores other programs use: Linux counts the time that each core was idle."""

import os
import time
from pathlib import Path

__all__ = ["Neighbours"]

_STAT = Path("/proc/stat")
_STAT_BYTES = 1 << 20
_IDLE, _IOWAIT, _STOLEN = 4, 5, 8  # fields of a core's line. Source: proc(5), /proc/stat


class Neighbours:
    """Measures from the moment when it is made, or begun again.

    Attributes:
        cores: How many cores this process may use.
    """

    def __init__(self) -> None:
        allowed = sorted(os.sched_getaffinity(0))
        self.cores = len(allowed)
        self._names = {f"cpu{number}".encode() for number in allowed}
        self._tick_seconds = 1 / os.sysconf("SC_CLK_TCK")
        self._file = os.open(_STAT, os.O_RDONLY | os.O_CLOEXEC)
        self.begin()

    @classmethod
    def watch(cls) -> "Neighbours | None":
        """Begin to measure; None where the system does not keep count."""
        return cls() if _STAT.exists() and hasattr(os, "sched_getaffinity") else None

    def begin(self) -> None:
        """Begin to measure again."""
        self._began, self._own, self._unused = time.monotonic(), time.process_time(), self._read_unused()

    @property
    def seconds(self) -> float:
        """How long has been measured."""
        return time.monotonic() - self._began

    def end(self) -> float:
        """Return how many cores others used on average since the beginning, and begin again."""
        began, own, unused = self._began, self._own, self._unused
        self.begin()
        seconds = max(self._began - began, self._tick_seconds)
        used = self.cores * seconds - (self._unused - unused) - (self._own - own)
        return max(0.0, used / seconds)

    def _read_unused(self) -> float:
        """Return the seconds in which the cores ran nothing of this system."""
        ticks = 0
        for line in os.pread(self._file, _STAT_BYTES, 0).splitlines():
            name, *values = line.split()
            if name in self._names:
                counts = (0, *map(int, values))
                ticks += sum(counts[field] for field in (_IDLE, _IOWAIT, _STOLEN) if field < len(counts))
        return ticks * self._tick_seconds

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
