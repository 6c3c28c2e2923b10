"""The machines that are published with llmrun: each can be read, says where its figures are from, and is possible."""

import json
from pathlib import Path

import pytest

from llmrun.hardware.profile import machine_to_json, read_machine
from llmrun.hardware.types import GpuVendor, Machine

FOLDER = Path(__file__).parent.parent / "machines"
FILES = sorted(FOLDER.glob("*.json"))
MIB = 1 << 20
GIB = 1 << 30
GPU_BANDWIDTHS_GBPS = {
    "NVIDIA H200": 4800,
    "GeForce RTX 4090": 1008,
    "GeForce RTX 4070": 504,
    "GeForce RTX 3080": 760,
    "GeForce RTX 3060": 360,
    "Tesla T4": 320,
    "AMD Instinct MI300X": 5300,
    "Apple M2": 100,
    "Apple M4 Max": 546,
}
COMPUTE_CAPABILITIES = {"NVIDIA H200": "9.0", "RTX 40": "8.9", "RTX 30": "8.6", "Tesla T4": "7.5"}

every_file = pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in FILES])


def load(name: str) -> Machine:
    return read_machine(FOLDER / f"{name}.json")


def test_the_machines_that_people_have_are_there() -> None:
    assert {path.stem for path in FILES} >= {
        "apple-m2-8gb",
        "apple-m4-max",
        "container-2-cores-2gib",
        "h200-server",
        "laptop-without-avx2",
        "mi300x-server",
        "raspberry-pi-5-8gb",
        "rtx-3060-desktop",
        "rtx-4090-desktop",
        "sapphire-rapids-vm-amx",
        "t4-cloud-vm",
        "windows-rtx-4070-desktop",
        "wsl2-rtx-3080-desktop",
    }


@every_file
def test_it_is_what_save_machine_writes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    source = json.loads(text)["source"]
    written = json.dumps(machine_to_json(read_machine(path), source), indent=2, ensure_ascii=False)
    assert text == written + "\n"


@every_file
def test_it_names_its_source(path: Path) -> None:
    source = json.loads(path.read_text(encoding="utf-8"))["source"]
    assert len(source) > 60
    assert any(word in source for word in ("data sheet", "specification", "product brief", "table", "NVML"))


@every_file
def test_it_is_possible(path: Path) -> None:
    machine = read_machine(path)
    cpu, memory = machine.cpu, machine.memory
    assert cpu.physical_cores is not None
    assert 1 <= cpu.threads <= cpu.physical_cores <= cpu.logical_cores
    assert cpu.logical_cores <= 2 * cpu.physical_cores
    assert {"x86_64": "sse2", "arm64": "asimd"}[cpu.architecture] in cpu.isa_flags
    assert GIB < memory.available_bytes < memory.total_bytes <= 4096 * GIB
    assert memory.limit_bytes is None or memory.available_bytes <= memory.limit_bytes < memory.total_bytes
    assert machine.disk_free_bytes
    bandwidth = machine.memory_bandwidth_bytes_per_second
    assert bandwidth is None or 1e10 < bandwidth < 1e12
    assert machine.problems == ()


@every_file
def test_its_gpus_are_possible(path: Path) -> None:
    machine = read_machine(path)
    for gpu in machine.gpus:
        assert gpu.unified_memory == (gpu.vendor is GpuVendor.APPLE)
        if gpu.total_bytes is not None:
            assert gpu.free_bytes is not None
            assert 0.5 * gpu.total_bytes < gpu.free_bytes <= gpu.total_bytes <= 192 * GIB
        if gpu.unified_memory:
            assert gpu.total_bytes == machine.memory.total_bytes
            assert gpu.free_bytes is not None
            assert gpu.free_bytes <= machine.memory.available_bytes
        if gpu.vendor is GpuVendor.NVIDIA:
            expected = next(value for name, value in COMPUTE_CAPABILITIES.items() if name in gpu.name)
            assert gpu.compute_capability == expected
            assert gpu.driver
            assert gpu.cuda_version == "13.0"
        else:
            assert gpu.compute_capability is None


@every_file
def test_the_bandwidth_of_its_gpus_is_the_published_one(path: Path) -> None:
    machine = read_machine(path)
    for gpu in machine.gpus:
        published = [value for name, value in GPU_BANDWIDTHS_GBPS.items() if gpu.name.endswith(name)]
        expected = published[0] * 1e9 if published else None
        assert gpu.memory_bandwidth_bytes_per_second == expected
        if gpu.unified_memory:
            assert expected == machine.memory_bandwidth_bytes_per_second


def test_the_real_h200() -> None:
    (gpu,) = load("h200-server").gpus
    assert (gpu.name, gpu.total_bytes) == ("NVIDIA H200", 143_771 * MIB)
    assert (gpu.compute_capability, gpu.driver, gpu.cuda_version) == ("9.0", "580.159", "13.0")


def test_what_each_was_chosen_for() -> None:
    container = load("container-2-cores-2gib")
    assert (container.container, container.cpu.threads, container.memory.limit_bytes) == ("docker", 2, 2 * GIB)
    laptop = load("laptop-without-avx2").cpu.isa_flags
    assert "avx" in laptop
    assert not laptop & {"avx2", "fma", "f16c", "avx512f"}
    assert {"amx_int8", "avx512_vnni", "avx2"} <= load("sapphire-rapids-vm-amx").cpu.isa_flags
    assert load("sapphire-rapids-vm-amx").cpu.threads == 2
    assert load("wsl2-rtx-3080-desktop").wsl
    assert load("windows-rtx-4070-desktop").system == "windows"
    assert {gpu.vendor for gpu in load("mi300x-server").gpus} == {GpuVendor.AMD}
    assert load("apple-m2-8gb").system == "darwin"
    assert load("raspberry-pi-5-8gb").cpu.architecture == "arm64"
