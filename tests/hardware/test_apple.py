"""Apple's GPUs, from made-up answers of sysctl."""

import os
import sys

import pytest

from llmrun.hardware.macos import estimate_metal_bytes, probe_apple_gpus
from llmrun.hardware.types import GPU, GpuVendor, MemoryInfo

MIB = 1 << 20
GIB = 1 << 30


def answers(total_bytes: int, **more: bytes) -> dict[str, bytes]:
    return {
        "hw.optional.arm64": b"\1\0\0\0",
        "hw.memsize": total_bytes.to_bytes(8, "little"),
        "machdep.cpu.brand_string": b"Apple M2\0",
        "hw.model": b"Mac14,2\0",
        **more,
    }


def test_memory_is_shared_and_metal_takes_a_part() -> None:
    (gpu,) = probe_apple_gpus(answers(8 * GIB).get)
    expected = GPU(
        vendor=GpuVendor.APPLE,
        name="Apple M2",
        total_bytes=8 * GIB,
        free_bytes=8 * GIB * 2 // 3,
        memory_bandwidth_bytes_per_second=100e9,
        unified_memory=True,
    )
    assert gpu == expected


@pytest.mark.parametrize(
    ("total_gib", "metal_mib"),
    [pytest.param(16, 10922), pytest.param(32, 21845), pytest.param(64, 49152), pytest.param(96, 73728)],
)
def test_what_metal_recommends(total_gib: int, metal_mib: int) -> None:
    assert estimate_metal_bytes(total_gib * GIB) // MIB == metal_mib


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(b"Apple M1\0", 68.25e9, id="m1"),
        pytest.param(b"Apple M2 Ultra\0", 800e9, id="m2-ultra"),
        pytest.param(b"Apple M4 Max\0", 410e9, id="m4-max"),
        pytest.param(b"Apple M99\0", None, id="a-chip-to-come"),
    ],
)
def test_the_published_bandwidth_of_the_chip(name: bytes, expected: float | None) -> None:
    (gpu,) = probe_apple_gpus(answers(16 * GIB, **{"machdep.cpu.brand_string": name}).get)
    assert gpu.memory_bandwidth_bytes_per_second == expected


def test_no_more_than_other_processes_left() -> None:
    memory = MemoryInfo(total_bytes=8 * GIB, available_bytes=3 * GIB)
    assert probe_apple_gpus(answers(8 * GIB).get, memory)[0].free_bytes == 3 * GIB


def test_the_limit_that_the_user_set_counts() -> None:
    given = {"iogpu.wired_limit_mb": (60 * 1024).to_bytes(4, "little")}
    assert probe_apple_gpus(answers(64 * GIB, **given).get)[0].free_bytes == 60 * GIB


def test_without_a_name_the_model_is_the_name() -> None:
    given = {"machdep.cpu.brand_string": b"\0"}
    assert probe_apple_gpus(answers(8 * GIB, **given).get)[0].name == "Mac14,2"


def test_silence_is_a_gpu_without_numbers() -> None:
    (gpu,) = probe_apple_gpus({"hw.optional.arm64": b"\1"}.get)
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("Apple GPU", None, None)


@pytest.mark.skipif(
    sys.platform == "win32" or os.uname().machine == "arm64", reason="the processor itself says what it is"
)
def test_a_mac_with_an_intel_processor_has_none() -> None:
    assert probe_apple_gpus({"hw.memsize": b"\1"}.get) == ()
