"""What hardware/ says about a machine. A value that could not be read is None, and `Machine.problems` says why."""

from enum import StrEnum

from llmrun.values import value

__all__ = ["GPU", "Accelerator", "Compiler", "CpuInfo", "GpuVendor", "Machine", "MemoryInfo", "Toolchain"]


class GpuVendor(StrEnum):
    """Who made the GPU."""

    NVIDIA = "nvidia"
    AMD = "amd"
    INTEL = "intel"
    APPLE = "apple"


class Accelerator(StrEnum):
    """A GPU programming toolkit that an engine can be built with."""

    CUDA = "cuda"
    ROCM = "rocm"
    METAL = "metal"
    VULKAN = "vulkan"


@value
class CpuInfo:
    """The processor, and how much of it this process may use.

    Attributes:
        name: Marketing name, or None.
        architecture: `x86_64`, `arm64`, … normalised (`amd64` and `AMD64` are `x86_64`, `aarch64` is `arm64`).
        physical_cores: Cores of the machine without hyper-threads, or None.
        logical_cores: Hardware threads of the machine.
        affinity: Hardware threads this process may run on.
        quota: CPUs that the tightest cgroup ancestor allows (2.5 means two and a half), or None when unlimited.
        isa_flags: Lower-case instruction-set flags as Linux names them (`avx2`, `avx512_vnni`, `amx_int8`, `asimd`).
    """

    name: str | None
    architecture: str
    physical_cores: int | None
    logical_cores: int
    affinity: int
    quota: float | None
    isa_flags: frozenset[str]

    @property
    def threads(self) -> int:
        """Threads worth starting: min(affinity, floor(quota), physical cores), at least 1.

        Source: measured with llama.cpp (8 threads on 2 cores: 27 tokens/s, 2 threads: 70).
        """
        limits = [self.affinity, self.physical_cores or self.logical_cores]
        if self.quota is not None:
            limits.append(int(self.quota))
        return max(1, min(limits))


@value
class MemoryInfo:
    """Main memory in bytes.

    Attributes:
        total_bytes: Installed memory.
        available_bytes: What a new process can take: min(MemAvailable, every cgroup ancestor's limit less its
            use, RLIMIT_AS less what is mapped).
        limit_bytes: The tightest limit that is below `total_bytes`, or None.
        limit_source: What sets it (`cgroup v2 /docker/abc memory.max`, `RLIMIT_AS`), or None.
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = None
    limit_source: str | None = None


@value
class GPU:
    """One GPU.

    Attributes:
        name: Marketing name, or the vendor and the PCI device number where nothing here knows it.
        total_bytes: Its own memory; with `unified_memory` the machine's; None when it cannot be read.
        free_bytes: What other processes left of it at the time of the probe, and the driver lets one process take.
        compute_capability: NVIDIA's (`9.0`); None for the others.
        driver: Version of the driver (`580.159`), or None.
        cuda_version: The newest CUDA that the driver can run (`13.0`), or None.
        memory_bandwidth_bytes_per_second: How fast it reads its memory at most, by its bus width and clock, or None.
        unified_memory: It works on the machine's main memory: what it takes is missing there.
    """

    vendor: GpuVendor
    name: str
    total_bytes: int | None
    free_bytes: int | None
    compute_capability: str | None = None
    driver: str | None = None
    cuda_version: str | None = None
    memory_bandwidth_bytes_per_second: float | None = None
    unified_memory: bool = False


@value
class Compiler:
    """A C++ compiler on this machine.

    Attributes:
        family: `gcc`, `clang` or `apple-clang`.
        version: `(12, 2, 0)`.
        cc: Path of the C compiler; cxx likewise for C++.
        openmp: Name of the OpenMP runtime that it can link (`libomp`, `libgomp`), or None.
    """

    family: str
    version: tuple[int, ...]
    cc: str
    cxx: str
    openmp: str | None


@value
class Toolchain:
    """What can build an engine here. `accelerators` maps a toolkit to the path of its compiler or marker.

    `cuda_version` is the CUDA toolkit's (`13.0`). `problems` says what was found and cannot be used, one sentence each.
    """

    compilers: tuple[Compiler, ...] = ()
    accelerators: tuple[tuple[Accelerator, str], ...] = ()
    cuda_version: str | None = None
    cmake: str | None = None
    ninja: str | None = None
    problems: tuple[str, ...] = ()


@value
class Machine:
    """This machine, as far as choosing and building an engine needs it.

    Attributes:
        system: `linux`, `darwin` or `windows`.
        python_version: `3.11.7`.
        problems: What could not be read, one sentence each (`NVML: driver not loaded`).
        disk_free_bytes: What this user may still write on the disk of the cache, or None when nobody asked.
        container: `docker`, `podman`, `kubernetes`, `lxc`, `systemd-nspawn`, …, or None outside of containers.
        wsl: Linux runs inside Windows (WSL).
        memory_bandwidth_bytes_per_second: How fast `cpu.threads` threads together read main memory, or None when it
            was neither measured nor stated.
    """

    system: str
    python_version: str
    cpu: CpuInfo
    memory: MemoryInfo
    gpus: tuple[GPU, ...] = ()
    problems: tuple[str, ...] = ()
    disk_free_bytes: int | None = None
    container: str | None = None
    wsl: bool = False
    memory_bandwidth_bytes_per_second: float | None = None
