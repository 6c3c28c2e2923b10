"""AMD and Intel GPUs from made-up kernel files and lists of names."""

from pathlib import Path

import pytest

from llmrun.hardware.drm import iterate_drm_gpus
from llmrun.hardware.types import GPU, GpuVendor

GIB = 1 << 30
AMDGPU_IDS = """# List of AMDGPU IDs
1.0.0
1586,	C1,	AMD Radeon 8060S Graphics
744C,	C8,	AMD Radeon RX 7900 XTX
744C,	CC,	AMD Radeon RX 7900 XT
74A1,	0,	AMD Instinct MI300X
"""
PCI_IDS = """# comment
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]
\t\t1002 0e3b  RX 7900 GRE
10de  NVIDIA Corporation
\t56a0  not Intel's
8086  Intel Corporation
# a comment between
\t46a6  Alder Lake-P GT2 [Iris Xe Graphics]
\t56a0  DG2 [Arc A770]
"""


def card(root: Path, name: str, vendor: str, device: str, **files: str) -> None:
    folder = root / "sys/class/drm" / name
    for file, text in {"device/vendor": vendor, "device/device": device, **files}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{text}\n")


def put(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)


def probe(root: Path) -> list[GPU]:
    return list(iterate_drm_gpus(root))


def test_amd_has_its_memory_and_its_driver(tmp_path: Path) -> None:
    memory = {"device/mem_info_vram_total": str(24 * GIB), "device/mem_info_vram_used": str(GIB)}
    card(tmp_path, "card0", "0x1002", "0x744c", **{"device/revision": "0xc8"}, **memory)
    put(tmp_path, "usr/share/libdrm/amdgpu.ids", AMDGPU_IDS)
    put(tmp_path, "sys/module/amdgpu/version", "6.8.5\n")
    expected = GPU(
        vendor=GpuVendor.AMD,
        name="AMD Radeon RX 7900 XTX",
        total_bytes=24 * GIB,
        free_bytes=23 * GIB,
        driver="6.8.5",
    )
    assert probe(tmp_path) == [expected]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        pytest.param({"device/product_name": "AMD INSTINCT MI300X OAM"}, "AMD INSTINCT MI300X OAM", id="driver"),
        pytest.param({"device/revision": "0xcc"}, "AMD Radeon RX 7900 XT", id="libdrm, by revision"),
        pytest.param({"device/revision": "0x01"}, "Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]", id="pciutils"),
        pytest.param({}, "Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]", id="no revision"),
    ],
)
def test_amd_name(tmp_path: Path, files: dict[str, str], name: str) -> None:
    card(tmp_path, "card0", "0x1002", "0x744c", **files)
    put(tmp_path, "usr/share/libdrm/amdgpu.ids", AMDGPU_IDS)
    put(tmp_path, "usr/share/misc/pci.ids", PCI_IDS)
    assert probe(tmp_path)[0].name == name


def test_a_revision_of_one_digit_is_found(tmp_path: Path) -> None:
    card(tmp_path, "card0", "0x1002", "0x74a1", **{"device/revision": "0x00"})
    put(tmp_path, "usr/share/libdrm/amdgpu.ids", AMDGPU_IDS)
    assert probe(tmp_path)[0].name == "AMD Instinct MI300X"


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        pytest.param({"lmem_total_bytes": str(16 * GIB), "lmem_avail_bytes": str(15 * GIB)}, 16, 15, id="i915"),
        pytest.param({"device/tile0/physical_vram_size_bytes": str(12 * GIB)}, 12, None, id="xe"),
        pytest.param({}, None, None, id="part of the processor"),
        pytest.param({"lmem_total_bytes": "0", "lmem_avail_bytes": "0"}, None, None, id="zero is none"),
    ],
)
def test_intel_has_memory_of_its_own_or_none(
    tmp_path: Path, files: dict[str, str], total: int | None, free: int | None
) -> None:
    card(tmp_path, "card0", "0x8086", "0x56a0", **files)
    put(tmp_path, "usr/share/hwdata/pci.ids", PCI_IDS)
    put(tmp_path, "sys/module/amdgpu/version", "6.8.5\n")  # not this card's
    (gpu,) = probe(tmp_path)
    assert (gpu.vendor, gpu.name, gpu.driver) == (GpuVendor.INTEL, "DG2 [Arc A770]", None)
    assert gpu.total_bytes == (total * GIB if total else None)
    assert gpu.free_bytes == (free * GIB if free else None)


def test_without_lists_the_number_is_the_name(tmp_path: Path) -> None:
    card(tmp_path, "card0", "0x8086", "0x46a6")
    card(tmp_path, "card1", "0x1002", "0x744c")
    assert [gpu.name for gpu in probe(tmp_path)] == ["intel GPU 0x46a6", "amd GPU 0x744c"]


def test_only_cards_count_in_the_order_of_the_kernel(tmp_path: Path) -> None:
    for number in (10, 2):
        card(tmp_path, f"card{number}", "0x1002", f"0x{number:04x}")
    card(tmp_path, "renderD128", "0x1002", "0x744c")
    card(tmp_path, "card3", "0x1af4", "0x1050")  # a virtual display
    put(tmp_path, "sys/class/drm/card2-DP-1/status", "connected\n")
    put(tmp_path, "sys/class/drm/version", "drm 1.1.0\n")
    assert [gpu.name for gpu in probe(tmp_path)] == ["amd GPU 0x0002", "amd GPU 0x000a"]


@pytest.mark.parametrize("text", ["", "garbage", "-5", "0x1002\n0x1002", "\0"])
def test_nonsense_in_the_files_is_no_error(tmp_path: Path, text: str) -> None:
    files = {f"device/{file}": text for file in ("revision", "product_name", "mem_info_vram_used")}
    card(tmp_path, "card0", "0x1002", text, **files, **{"device/mem_info_vram_total": text})
    card(tmp_path, "card1", text, text)
    put(tmp_path, "usr/share/libdrm/amdgpu.ids", text)
    put(tmp_path, "usr/share/misc/pci.ids", text)
    (gpu,) = probe(tmp_path)
    assert (gpu.total_bytes, gpu.free_bytes) == (None, None)


def test_more_in_use_than_there_is_leaves_nothing(tmp_path: Path) -> None:
    card(tmp_path, "card0", "0x1002", "0x1", **{"device/mem_info_vram_total": "5", "device/mem_info_vram_used": "6"})
    assert probe(tmp_path)[0].free_bytes == 0
