"""What else the machine did while something was measured: stolen time, other programs, its load, its clock.

Two readings of counters that the kernel keeps anyway, before and after; nothing runs in between. What cannot be read
is None. Other programs matter for a measurement that wants all cores even if they use a part of one: its threads wait
for the slowest of them.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Contention", "ContentionWatch", "is_disturbed", "others_share"]

_STAT = Path("/proc/stat")
_FREQUENCIES = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
_WORTH_NAMING = 0.05  # of one core
_DISTURBING = 0.1  # cores that others used, or that were stolen


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """What was seen.

    Attributes:
        seconds: How long it was watched.
        stolen_cores: Cores that the hypervisor gave to other machines, on average.
        other_cores: Cores that other processes of this machine used.
        others: The busiest of them and the cores that each used.
        load_average: Of the last minute, at the end.
        megahertz: The slowest and the fastest core at the end.
    """

    seconds: float
    stolen_cores: float | None
    other_cores: float | None
    others: tuple[tuple[str, float], ...] = ()
    load_average: float | None = None
    megahertz: tuple[float, float] | None = None


def is_disturbed(contention: Contention) -> bool:
    """Return whether others took so much that a figure may be theirs as well."""
    return (contention.stolen_cores or 0) > _DISTURBING or (contention.other_cores or 0) > _DISTURBING


def others_share(seen: Sequence[Contention]) -> float:
    """Return the cores that others took, stolen ones included, on average over several watches."""
    seconds = sum(each.seconds for each in seen)
    taken = sum(((each.other_cores or 0) + (each.stolen_cores or 0)) * each.seconds for each in seen)
    return taken / seconds if seconds else 0.0


class ContentionWatch:
    """From its making to `end`."""

    def __init__(self, own: Sequence[int], stat: Path = _STAT) -> None:
        self._stat = stat
        self._own = set(own)
        self._began = time.monotonic()
        self._system = _read_system(stat)
        self._processes = _read_processes()

    def end(self, own: Sequence[int]) -> Contention:
        """Return what happened; `own` are the processes whose work was to be measured."""
        seconds = max(1e-9, time.monotonic() - self._began)
        system, processes = _read_system(self._stat), _read_processes()
        mine = self._own | set(own) | {os.getpid()}
        used = {
            pid: (name, spent - self._processes.get(pid, (name, 0.0))[1]) for pid, (name, spent) in processes.items()
        }
        by_name: dict[str, float] = {}
        for pid, (name, spent) in used.items():
            if pid not in mine and spent > 0:
                by_name[name] = by_name.get(name, 0.0) + spent / seconds
        stolen = busy = None
        if system is not None and self._system is not None:
            own_seconds = sum(spent for pid, (_, spent) in used.items() if pid in mine)
            busy = max(0.0, (system[0] - self._system[0] - own_seconds) / seconds)
            stolen = max(0.0, (system[1] - self._system[1]) / seconds)
        named = sorted(((name, share) for name, share in by_name.items() if share >= _WORTH_NAMING), key=_by_share)
        return Contention(
            seconds=seconds,
            stolen_cores=stolen,
            other_cores=sum(by_name.values()) if busy is None else busy,
            others=tuple(named[:3]),
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            megahertz=_read_megahertz(),
        )


def _by_share(item: tuple[str, float]) -> float:
    return -item[1]


def _read_system(stat: Path) -> tuple[float, float] | None:
    """Return the seconds that all cores were busy, and those that were stolen.

    Source: proc_stat(5): user nice system idle iowait irq softirq steal guest guest_nice, in ticks.
    """
    try:
        words = stat.read_text().split("\n", 1)[0].split()
        user, nice, system, _idle, _wait, irq, softirq, steal = (float(word) for word in words[1:9])
    except (OSError, ValueError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def _read_processes() -> dict[int, tuple[str, float]]:
    """Return name and processor seconds of every process that can be seen."""
    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            found[process.pid] = (process.info["name"] or str(process.pid), times.user + times.system)
    return found


def _read_megahertz() -> tuple[float, float] | None:
    values = []
    for path in Path("/").glob(_FREQUENCIES.lstrip("/")):
        try:
            values.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return (min(values), max(values)) if values else None
