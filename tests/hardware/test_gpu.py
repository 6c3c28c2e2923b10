"""GPUs: an NVML that answers, fails, hangs or is not there; no AMD or Intel card is asked through it."""

import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from llmrun.hardware.gpu import probe_gpus
from llmrun.hardware.types import GPU, GpuVendor, MemoryInfo

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
        NVML_CLOCK_MEM=2,
        nvmlDeviceGetMemoryBusWidth=lambda _handle: 6144,
        nvmlDeviceGetMaxClockInfo=lambda _handle, clock: {2: 3201}[clock],
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
        memory_bandwidth_bytes_per_second=6144 / 8 * 3201e6 * 2,
    )
    assert (gpus, problems) == ((expected,), ())


@pytest.mark.parametrize(
    ("bus_bits", "megahertz", "expected"),
    [
        pytest.param(lambda _handle: 384, lambda _handle, _clock: 10501, 1008.096e9, id="rtx-4090"),
        pytest.param(lambda _handle: 256, lambda _handle, _clock: 5001, 320.064e9, id="t4"),
        pytest.param(lambda _handle: 0, lambda _handle, _clock: 5001, None, id="width-unknown"),
        pytest.param(lambda _handle: 384, lambda _handle, _clock: 0, None, id="clock-unknown"),
        pytest.param(lambda *_arguments: fail(), lambda _handle, _clock: 10501, None, id="width-not-supported"),
        pytest.param(lambda _handle: 384, lambda *_arguments: fail(), None, id="clock-not-supported"),
    ],
)
def test_the_memory_bandwidth(
    nvidia_root: Path, monkeypatch: pytest.MonkeyPatch, bus_bits: Any, megahertz: Any, expected: float | None
) -> None:
    changes = {"nvmlDeviceGetMemoryBusWidth": bus_bits, "nvmlDeviceGetMaxClockInfo": megahertz}
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(**changes))
    ((gpu,), problems) = probe_gpus(nvidia_root)
    assert problems == ()
    assert gpu.memory_bandwidth_bytes_per_second == (None if expected is None else pytest.approx(expected))


def test_an_nvml_without_the_question_for_the_bus_width(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_pynvml()
    del module.nvmlDeviceGetMemoryBusWidth
    monkeypatch.setitem(sys.modules, "pynvml", module)
    ((gpu,), problems) = probe_gpus(nvidia_root)
    assert (gpu.memory_bandwidth_bytes_per_second, gpu.free_bytes, problems) == (None, 140 * GIB, ())


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


def test_nvml_hangs_and_is_not_asked_again(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    calls: list[float] = []

    def hang() -> None:
        calls.append(time.monotonic())
        release.wait(30)

    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(nvmlInit=hang))
    started = time.monotonic()
    answers = [probe_gpus(nvidia_root, timeout_seconds=seconds) for seconds in (0.05, 20)]
    took = time.monotonic() - started
    release.set()
    for thread in threading.enumerate():
        if thread.name == "nvml":
            thread.join(10)
    assert took < 5
    assert [gpus for gpus, _ in answers] == [(), ()]
    assert answers[0][1] == ("NVML: no answer within 0.05 s; NVIDIA GPUs are left out",)
    assert len(calls) == 1
    assert probe_gpus(nvidia_root)[0] != ()  # it answers again


def test_without_a_driver_nvml_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would fail, and be reported
    assert probe_gpus(tmp_path) == ((), ())


class NVMLError_NotSupported(NVMLError):  # noqa: N801 - the name by which pynvml's error is told apart
    pass


def test_a_gpu_on_the_main_memory_says_so(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: object) -> Any:
        raise NVMLError_NotSupported("Not Supported")

    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(nvmlDeviceGetMemoryInfo=refuse))
    memory = MemoryInfo(total_bytes=128 * GIB, available_bytes=100 * GIB)
    ((gpu,), problems) = probe_gpus(nvidia_root, memory=memory)
    assert (gpu.unified_memory, gpu.total_bytes, gpu.free_bytes, problems) == (True, 128 * GIB, 100 * GIB, ())


def test_one_gpu_off_the_bus_does_not_hide_the_others(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(index: int) -> int:
        if index == 1:
            raise NVMLError("GPU is lost")
        return index

    changes = {"nvmlDeviceGetCount": lambda: 3, "nvmlDeviceGetHandleByIndex": handle}
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(**changes))
    gpus, problems = probe_gpus(nvidia_root)
    assert len(gpus) == 2
    assert problems == ("NVML: GPU 1: GPU is lost",)


def test_cards_of_other_makers_come_after(nvidia_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml())
    (nvidia_root / "sys/class/drm/card0/device").mkdir(parents=True)
    (nvidia_root / "sys/class/drm/card0/device/vendor").write_text("0x1002\n")
    gpus, problems = probe_gpus(nvidia_root)
    assert [gpu.vendor for gpu in gpus] == [GpuVendor.NVIDIA, GpuVendor.AMD]
    assert problems == ()
