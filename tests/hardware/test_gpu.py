"""GPUs: an NVML that answers, fails, hangs or is not there; AMD and Intel from the kernel's files."""

import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from llmrun.hardware.gpu import probe_gpus
from llmrun.hardware.types import GPU, GpuVendor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads made-up Linux kernel files")
GIB = 1 << 30


class NVMLError(Exception):
    pass


def fake_pynvml(**changes: Any) -> types.ModuleType:
    module = types.ModuleType("pynvml")
    module.__dict__.update(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.159",
        nvmlSystemGetCudaDriverVersion_v2=lambda: 13000,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda _handle: types.SimpleNamespace(total=141 * GIB, free=140 * GIB),
        nvmlDeviceGetCudaComputeCapability=lambda _handle: (9, 0),
        nvmlDeviceGetName=lambda _handle: b"NVIDIA H200",
    )
    module.__dict__.update(changes)
    return module


@pytest.fixture
def nvidia_root(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    return tmp_path


def fail(*_arguments: object) -> Any:
    raise NVMLError("Driver Not Loaded")


def test_nvml_answers(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml())
    gpus, problems = probe_gpus(nvidia_root)
    expected = GPU(
        vendor=GpuVendor.NVIDIA,
        name="NVIDIA H200",
        total_bytes=141 * GIB,
        free_bytes=140 * GIB,
        compute_capability="9.0",
        driver="580.159",
        cuda_version="13.0",
    )
    assert (gpus, problems) == ((expected,), ())


def test_a_gpu_that_shares_main_memory_is_still_listed(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "nvmlDeviceGetMemoryInfo": fail,
        "nvmlDeviceGetCudaComputeCapability": fail,
        "nvmlSystemGetCudaDriverVersion_v2": fail,
    }
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(**changes))
    gpus, problems = probe_gpus(nvidia_root)
    assert (gpus[0].total_bytes, gpus[0].compute_capability, gpus[0].cuda_version) == (None, None, None)
    assert problems == ()


def test_nvml_fails(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(nvmlInit=fail))
    assert probe_gpus(nvidia_root) == ((), ("NVML: Driver Not Loaded",))


def test_nvml_is_not_installed(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus, problems = probe_gpus(nvidia_root)
    assert gpus == ()
    assert len(problems) == 1
    assert problems[0].startswith("NVML: ")


def test_nvml_hangs(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(nvmlInit=lambda: release.wait(30)))
    started = time.monotonic()
    gpus, problems = probe_gpus(nvidia_root, timeout_seconds=0.05)
    release.set()
    assert time.monotonic() - started < 5
    assert gpus == ()
    assert problems == ("NVML: no answer within 0.05 s; NVIDIA GPUs are left out",)


def test_without_a_driver_nvml_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would fail, and be reported
    assert probe_gpus(tmp_path) == ((), ())


def test_amd_and_intel_come_from_the_kernel(tmp_path: Path) -> None:
    files = {
        "card0/device/vendor": "0x1002\n",
        "card0/device/device": "0x744c\n",
        "card0/device/mem_info_vram_total": f"{24 * GIB}\n",
        "card0/device/mem_info_vram_used": f"{GIB}\n",
        "card1/device/vendor": "0x8086\n",
        "card1/device/device": "0x46a6\n",
        "card2/device/vendor": "0x1af4\n",
        "card0-DP-1/status": "connected\n",
        "renderD128/device/vendor": "0x1002\n",
    }
    for name, text in files.items():
        path = tmp_path / "sys/class/drm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    gpus, problems = probe_gpus(tmp_path)
    seen = [(gpu.vendor, gpu.name, gpu.total_bytes, gpu.free_bytes) for gpu in gpus]
    assert seen == [
        (GpuVendor.AMD, "amd GPU 0x744c", 24 * GIB, 23 * GIB),
        (GpuVendor.INTEL, "intel GPU 0x46a6", None, None),
    ]
    assert problems == ()
