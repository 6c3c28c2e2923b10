"""How much energy the processor and NVIDIA GPUs used between two moments, where the machine can tell.

The processor's figure is that of its packages (RAPL), whoever used them; on most systems only root may read it, and
virtual machines have none. A GPU's is that of the whole board.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EnergyMeter", "open_nvml"]

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class _Zone:
    path: Path
    wraps_at: int  # microjoules


class EnergyMeter:
    """Counts joules.

    Args:
        nvml: The module, initialised, or None.
        powercap: Stands in for the kernel's folder in tests.
    """

    def __init__(self, nvml: Any = None, powercap: Path = _POWERCAP) -> None:
        self._nvml = nvml
        self._zones = _find_zones(powercap)

    @property
    def source(self) -> str | None:
        """What is counted, or None when nothing can be."""
        parts = []
        if self._zones:
            parts.append("processor packages (RAPL)")
        if self._nvml is not None and self._read_gpus() is not None:
            parts.append("NVIDIA GPUs (NVML)")
        return " and ".join(parts) or None

    def read(self) -> tuple[tuple[int, ...], int | None]:
        """Return the counters as they stand."""
        return tuple(_read_number(zone.path) or 0 for zone in self._zones), self._read_gpus()

    def joules_since(self, before: tuple[tuple[int, ...], int | None]) -> float | None:
        """Return the joules used since an earlier reading; None when nothing can be counted."""
        zones, gpus = self.read()
        if not self._zones and gpus is None:
            return None
        microjoules = sum(
            (now - then) % zone.wraps_at for zone, now, then in zip(self._zones, zones, before[0], strict=True)
        )
        millijoules = 0 if gpus is None or before[1] is None else gpus - before[1]
        return microjoules / 1e6 + millijoules / 1e3

    def _read_gpus(self) -> int | None:
        """Return the millijoules of all GPUs since their driver was loaded."""
        nvml = self._nvml
        if nvml is None:
            return None
        try:
            count = int(nvml.nvmlDeviceGetCount())
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            return sum(int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles) if handles else None
        except nvml.NVMLError:
            return None


def open_nvml() -> Any:
    """Return NVML, initialised, or None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - a probe: no driver, no library
        return None
    return pynvml


def _find_zones(powercap: Path) -> list[_Zone]:
    """Return the packages' counters that may be read.

    Source: https://docs.kernel.org/power/powercap/powercap.html
    """
    zones = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        counter = folder / "energy_uj"
        if folder.name.count(":") == 1 and _read_number(counter) is not None:
            zones.append(_Zone(counter, (_read_number(folder / "max_energy_range_uj") or (1 << 62)) + 1))
    return zones


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
