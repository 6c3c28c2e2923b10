"""Processor, memory and the whole machine, read from made-up kernel files; and this machine, read quickly."""

import os
import resource
import sys
import time
from pathlib import Path

import pytest

from llmrun.hardware.cpu import normalise_architecture, probe_cpu
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.macos import translate_features
from llmrun.hardware.memory import probe_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads made-up Linux kernel files")
GIB = 1 << 30
V2_MOUNT = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def cpuinfo(*cores: tuple[int, int], flags: str = "fpu AVX2 avx512_vnni amx_int8") -> str:
    return "\n".join(
        f"processor\t: {index}\nmodel name\t: Test CPU 9000\nphysical id\t: {package}\ncore id\t\t: {core}\n"
        f"flags\t\t: {flags}\n"
        for index, (package, core) in enumerate(cores)
    )


def test_hyperthreads_count_once(tmp_path: Path) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    files = {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{s}\n" for n, s in siblings.items()}
    files |= {"sys/devices/system/cpu/cpu4/online": "0\n", "sys/devices/system/cpu/cpufreq/boost": "1\n"}
    files |= {"proc/cpuinfo": cpuinfo((0, 0), (0, 1), (0, 0), (0, 1))}
    cpu, problems = probe_cpu(write(tmp_path, files))
    assert (cpu.physical_cores, cpu.name, problems) == (2, "Test CPU 9000", ())
    assert {"avx2", "avx512_vnni", "amx_int8"} <= cpu.isa_flags


def test_without_topology_files_cores_are_counted_in_cpuinfo(tmp_path: Path) -> None:
    cpu, _ = probe_cpu(write(tmp_path, {"proc/cpuinfo": cpuinfo((0, 0), (0, 0), (1, 0), (1, 1))}))
    assert cpu.physical_cores == 3


def test_arm_names_its_flags_features(tmp_path: Path) -> None:
    cpu, _ = probe_cpu(write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n\n"}))
    assert cpu.isa_flags == {"fp", "asimd", "asimddp", "i8mm"}
    assert cpu.name is None


@pytest.mark.parametrize(
    ("affinity", "quota", "cores", "threads"),
    [
        pytest.param(8, None, 4, 4, id="physical cores"),
        pytest.param(3, None, 4, 3, id="affinity"),
        pytest.param(8, "250000 100000", 4, 2, id="two and a half CPUs round down"),
        pytest.param(8, "50000 100000", 4, 1, id="half a CPU is one thread"),
        pytest.param(8, "199999 100000", 4, 1, id="just under two is one"),
    ],
)
def test_threads_match_what_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affinity: int, quota: str | None, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(affinity)))
    files = {"proc/cpuinfo": cpuinfo(*((0, core) for core in range(cores)))}
    if quota:
        files |= {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT, "sys/fs/cgroup/cpu.max": f"{quota}\n"}
    cpu, _ = probe_cpu(write(tmp_path, files))
    assert (cpu.affinity, cpu.threads) == (affinity, threads)


def test_nothing_readable_is_said_and_not_raised(tmp_path: Path) -> None:
    machine = probe_machine(tmp_path)
    assert machine.cpu.physical_cores is None
    assert machine.cpu.threads >= 1
    assert machine.memory.total_bytes == 0
    assert len(machine.problems) == 3
    assert any("physical cores" in problem for problem in machine.problems)
    assert any("memory" in problem for problem in machine.problems)


def meminfo(total_gib: int, available_gib: int) -> str:
    return f"MemTotal: {total_gib << 20} kB\nMemFree: 1 kB\nMemAvailable: {available_gib << 20} kB\n"


def test_memory_without_limits(tmp_path: Path) -> None:
    memory, problems = probe_memory(write(tmp_path, {"proc/meminfo": meminfo(16, 12)}))
    assert (memory.total_bytes, memory.available_bytes) == (16 * GIB, 12 * GIB)
    assert (memory.limit_bytes, memory.limit_source, problems) == (None, None, ())


def test_kernel_without_mem_available(tmp_path: Path) -> None:
    text = f"MemTotal: {8 << 20} kB\nMemFree: {2 << 20} kB\nBuffers: {1 << 20} kB\nCached: {3 << 20} kB\n"
    memory, _ = probe_memory(write(tmp_path, {"proc/meminfo": text}))
    assert memory.available_bytes == 6 * GIB


def test_the_tightest_ancestor_is_the_limit(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": meminfo(64, 60),
        "proc/self/cgroup": "0::/pod/box\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/pod/box/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/pod/box/memory.current": f"{GIB}\n",
        "sys/fs/cgroup/pod/memory.max": f"{6 * GIB}\n",
        "sys/fs/cgroup/pod/memory.current": f"{4 * GIB}\n",
    }
    memory, _ = probe_memory(write(tmp_path, files))
    assert memory.available_bytes == 2 * GIB
    assert (memory.limit_bytes, memory.limit_source) == (6 * GIB, "cgroup v2 /pod memory.max")


def test_a_limit_above_the_installed_memory_is_none(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": meminfo(4, 3),
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
    }
    memory, _ = probe_memory(write(tmp_path, files))
    assert (memory.available_bytes, memory.limit_bytes) == (3 * GIB, None)


def test_address_space_limit_counts_what_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (3 * GIB, resource.RLIM_INFINITY))
    files = {"proc/meminfo": meminfo(16, 12), "proc/self/status": "Name:\tx\nVmSize:\t 1048576 kB\n"}
    memory, _ = probe_memory(write(tmp_path, files))
    assert memory.available_bytes == 2 * GIB
    assert (memory.limit_bytes, memory.limit_source) == (3 * GIB, "RLIMIT_AS")


def test_macos_flags_get_linux_names() -> None:
    values = {
        "hw.optional.AdvSIMD": b"\1\0\0\0",
        "hw.optional.arm.FEAT_I8MM": b"\1\0\0\0",
        "hw.optional.arm.FEAT_BF16": b"\0\0\0\0",
        "machdep.cpu.features": b"FPU SSE4.2 AVX1.0\0",
    }
    assert translate_features(values.get) == {"asimd", "i8mm", "fpu", "sse4_2", "avx"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [("AMD64", "x86_64"), ("x86_64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64"), ("riscv64", "riscv64")],
)
def test_one_name_for_each_architecture(given: str, expected: str) -> None:
    assert normalise_architecture(given) == expected


def test_this_machine_agrees_with_the_operating_system() -> None:
    machine = probe_machine()
    assert machine.system == "linux"
    assert machine.cpu.affinity == len(os.sched_getaffinity(0))
    assert 1 <= machine.cpu.threads <= machine.cpu.affinity
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory.total_bytes == pytest.approx(pages, rel=0.01)
    assert 0 < machine.memory.available_bytes <= machine.memory.total_bytes


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="waking a GPU takes its time")
def test_the_probe_takes_milliseconds() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        probe_machine()
        times.append(time.perf_counter() - started)
    assert min(times) < 0.02
