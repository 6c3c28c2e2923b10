"""AMD and Intel GPUs, as the kernel's display drivers show them under /sys/class/drm.

No vendor library is loaded: amdgpu publishes how much video memory there is and how much is taken, Intel's drivers do
for cards with memory of their own. An Intel GPU on the processor has no memory of its own and is listed without any.
Names come from the driver, else from the lists of names that libdrm and pciutils install, else they are the number.

Source: https://docs.kernel.org/gpu/amdgpu/driver-misc.html (product_name, mem_info_vram_*)
"""

from collections.abc import Iterator
from pathlib import Path

from llmrun.hardware.sysfiles import read_int, read_text
from llmrun.hardware.types import GPU, GpuVendor

__all__ = ["iterate_drm_gpus"]

_PCI_VENDORS = {"0x1002": GpuVendor.AMD, "0x8086": GpuVendor.INTEL}
# The files of i915 and xe, below the card's folder; which of them exist depends on the driver's version.
_INTEL_TOTAL = ("lmem_total_bytes", "device/tile0/physical_vram_size_bytes")
_AMD_NAMES = "usr/share/libdrm/amdgpu.ids"
_PCI_NAMES = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")


def iterate_drm_gpus(root: Path = Path("/")) -> Iterator[GPU]:
    """Yield the AMD and Intel GPUs in the kernel's order."""
    for card in _iterate_cards(root):
        vendor = _PCI_VENDORS.get((read_text(card / "device/vendor") or "").strip().lower())
        if vendor is GpuVendor.AMD:
            yield _read_amd(root, card)
        elif vendor is GpuVendor.INTEL:
            yield _read_intel(root, card)


def _iterate_cards(root: Path) -> list[Path]:
    """Return card0, card1, …, without their connectors (card0-DP-1)."""
    try:
        cards = [path for path in (root / "sys/class/drm").iterdir() if path.name.removeprefix("card").isdecimal()]
    except OSError:
        return []
    return sorted(cards, key=lambda path: int(path.name.removeprefix("card")))


def _read_amd(root: Path, card: Path) -> GPU:
    device = card / "device"
    total, used = read_int(device / "mem_info_vram_total"), read_int(device / "mem_info_vram_used")
    product = (read_text(device / "product_name") or "").strip()  # only cards for servers say it
    return GPU(
        vendor=GpuVendor.AMD,
        name=product or _find_amd_name(root, device) or _find_pci_name(root, device) or _number(GpuVendor.AMD, device),
        total_bytes=_positive(total),
        free_bytes=max(0, total - used) if _positive(total) and total is not None and used is not None else None,
        driver=(read_text(root / "sys/module/amdgpu/version") or "").strip() or None,
    )


def _read_intel(root: Path, card: Path) -> GPU:
    total = next((size for file in _INTEL_TOTAL if (size := _positive(read_int(card / file)))), None)
    free = read_int(card / "lmem_avail_bytes") if total else None
    return GPU(
        vendor=GpuVendor.INTEL,
        name=_find_pci_name(root, card / "device") or _number(GpuVendor.INTEL, card / "device"),
        total_bytes=total,
        free_bytes=min(free, total) if free is not None and total is not None and free >= 0 else None,
    )


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _number(vendor: GpuVendor, device: Path) -> str:
    return f"{vendor.value} GPU {(read_text(device / 'device') or '').strip()}".strip()


def _hexadecimal(device: Path, file: str) -> str:
    """Return a PCI number as the lists of names write it (`0x744C` as `744c`), or nothing."""
    digits = (read_text(device / file) or "").strip().lower().removeprefix("0x")
    return digits if digits and all(digit in "0123456789abcdef" for digit in digits) else ""


def _find_amd_name(root: Path, device: Path) -> str | None:
    """Look the card up in libdrm's list: lines of `744C,	C8,	AMD Radeon RX 7900 XTX`."""
    number, revision = _hexadecimal(device, "device"), _hexadecimal(device, "revision")
    if not number or not revision:
        return None
    for line in (read_text(root / _AMD_NAMES) or "").splitlines():
        fields = [field.strip() for field in line.split(",", 2)]
        if len(fields) == 3 and fields[0].lower() == number and fields[1].lower().zfill(2) == revision.zfill(2):
            return fields[2] or None
    return None


def _find_pci_name(root: Path, device: Path) -> str | None:
    """Look the card up in pciutils' list: a line for each vendor, below it its devices, indented by one tab."""
    vendor, number = _hexadecimal(device, "vendor"), _hexadecimal(device, "device")
    names = next((text for file in _PCI_NAMES if (text := read_text(root / file))), "")
    start = f"\n{names}".find(f"\n{vendor}  ") if vendor and number else -1
    if start < 0:
        return None
    for line in names[start:].split("\n")[1:]:
        if line[:1] not in {"\t", "#"}:
            break
        if line.startswith(f"\t{number}  "):
            return line[1 + len(number) :].strip() or None
    return None
