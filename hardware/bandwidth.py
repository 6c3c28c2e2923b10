"""How fast this machine's processor reads main memory: measured once, kept, and looked up from then on.

Generating a token reads every weight once, so bytes per second over bytes of weights is the speed that no engine can
exceed once a model is larger than the caches. Nothing in Python's library reads memory at full speed without holding
the interpreter's lock; the C library's `memchr`, called through ctypes, does both: it looks for a byte that is not
there, in one buffer for each thread, all of them together much larger than the caches.

Only `learn_bandwidth` measures, and only where nothing is kept; `known_bandwidth` costs one small file. What is kept
counts for one processor, number of threads, amount of memory and kernel: in a container with fewer CPUs it is taken
again. A machine that was busy while it was measured keeps too low a figure until it is measured `again`.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmrun.errors import StorageError
from llmrun.folders import cache_folder
from llmrun.hardware.sysfiles import read_text
from llmrun.hardware.types import Machine

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

__all__ = ["keep_bandwidth", "known_bandwidth", "learn_bandwidth", "measure_bandwidth", "read_bandwidth"]

_MIB = 1 << 20
_ALL_BUFFERS_BYTES = 256 * _MIB  # several times the last-level cache that one machine's few cores share
_LEAST_BUFFER_BYTES = 64 * _MIB  # for each thread of a machine with many, whose caches together are larger
_LEAST_USEFUL_BYTES = 64 * _MIB  # with less, the caches would be measured
_CALL_BYTES = 16 * _MIB  # long enough that the return to Python between two calls does not count
_FILL_SECONDS = 0.6
_START_SECONDS = 0.4
_SLICE_SECONDS = 0.1
_PLAUSIBLE_BYTES_PER_SECOND = (1e6, 1e14)


class _Read(NamedTuple):
    """One call: it read `size_bytes` between two instants of the monotonic clock."""

    start: float
    end: float
    size_bytes: int


def measure_bandwidth(threads: int, seconds: float = 0.8, buffer_bytes: int | None = None) -> float:
    """Return how many bytes of main memory that many threads together read in a second; 0.0 if it cannot be measured.

    The best tenth of a second counts, as STREAM counts its best run: another process can only make it slower.
    Takes `seconds` and at most one second more. `buffer_bytes` is what all threads together may take: by default
    256 MiB, or 64 MiB for each thread where that is more.

    Source: measured in turns with a C program that sums 64-bit words (gcc -O3 -march=native, 128 MiB for each thread,
    best of twenty passes) on two virtual cores of an EPYC (Zen 4): 4 to 22% above it with one thread (27 to 23-26
    GB/s), 4 to 13% above it with two while the host was steady (33 to 31, 53 to 47 GB/s). The host's other guests
    halved what both could read from one minute to the next, so the figure is no more exact than that.
    """
    import threading

    threads = max(1, threads)
    total = max(_ALL_BUFFERS_BYTES, threads * _LEAST_BUFFER_BYTES) if buffer_bytes is None else buffer_bytes
    memchr = _load_memchr()
    if memchr is None or total < threads:
        return 0.0
    barrier = threading.Barrier(threads)
    reads: list[list[_Read]] = [[] for _ in range(threads)]
    readers = [
        threading.Thread(target=_fill_and_read, args=(memchr, total // threads, seconds, barrier, own), daemon=True)
        for own in reads
    ]
    try:
        for reader in readers:
            reader.start()
    except RuntimeError:  # no more threads here: the barrier would wait for ever
        barrier.abort()
    for reader in readers:
        if reader.ident is not None:
            reader.join()
    return _find_best_slice(reads)


def known_bandwidth(machine: Machine) -> float | None:
    """Return what is known without measuring: what the machine's description states, else what is kept."""
    return machine.memory_bandwidth_bytes_per_second or read_bandwidth(machine)


def learn_bandwidth(machine: Machine, *, again: bool = False) -> float | None:
    """Return the bandwidth of this machine; if it is not known, or `again`, measure it (under 2 seconds) and keep it.

    None when it cannot be measured: no such function in the C library, or too little free memory.
    """
    known = None if again else known_bandwidth(machine)
    if known is not None:
        return known
    threads = machine.cpu.threads
    wanted = max(_ALL_BUFFERS_BYTES, threads * _LEAST_BUFFER_BYTES)
    allowed = min(wanted, machine.memory.available_bytes // 4)
    if allowed < _LEAST_USEFUL_BYTES:
        return None
    measured = measure_bandwidth(threads, buffer_bytes=allowed)
    if not _is_plausible(measured):
        return None
    with suppress(StorageError):  # it is known now; the next one measures again
        keep_bandwidth(machine, measured)
    return measured


def read_bandwidth(machine: Machine) -> float | None:
    """Return what was kept for this machine, or None; a damaged file counts as none."""
    import json

    key = _key(machine)
    try:
        kept = json.loads(read_text(_path(key)) or "null")
    except (StorageError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or kept.get("machine") != key:
        return None
    value = kept.get("bytes_per_second")
    return float(value) if isinstance(value, int | float) and _is_plausible(value) else None


def keep_bandwidth(machine: Machine, bytes_per_second: float) -> None:
    """Keep a measurement for `read_bandwidth`, in a file of its own that is replaced as a whole.

    Raises:
        StorageError: The cache cannot be written.
    """
    import json

    key = _key(machine)
    path = _path(key)
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    text = json.dumps({"machine": key, "bytes_per_second": bytes_per_second}, indent=1) + "\n"
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            fix="set LLMRUN_CACHE_DIR to a folder that can be written",
        ) from error


def _key(machine: Machine) -> dict[str, str | int | None]:
    """Return what a measurement depends on; memory in whole GiB, because it differs by pages from boot to boot."""
    return {
        "cpu": machine.cpu.name,
        "threads": machine.cpu.threads,
        "memory_gib": round(machine.memory.total_bytes / (1 << 30)),
        "kernel": os.uname().release if hasattr(os, "uname") else None,
    }


def _path(key: dict[str, str | int | None]) -> Path:
    import json
    import zlib  # hashlib takes longer to import than all the rest; the file itself says what it is for

    return cache_folder("machine") / f"bandwidth-{zlib.crc32(json.dumps(key, sort_keys=True).encode()):08x}.json"


def _is_plausible(value: float) -> bool:
    lowest, highest = _PLAUSIBLE_BYTES_PER_SECOND
    return not isinstance(value, bool) and lowest <= value <= highest


def _load_memchr() -> "Callable[[int, int, int], object] | None":
    """Return `memchr(address, byte, size)` of the C library; ctypes lets other threads run while it does."""
    try:
        import ctypes

        library = ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)
        memchr = library.memchr
        memchr.restype = ctypes.c_void_p
        memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    else:
        return memchr


def _fill_and_read(
    memchr: "Callable[[int, int, int], object]",
    size_bytes: int,
    seconds: float,
    barrier: "threading.Barrier",
    reads: list[_Read],
) -> None:
    """Fill a buffer, which makes its pages real and near this thread; wait for the others; read it again and again."""
    import ctypes
    import mmap
    import threading

    try:
        buffer = mmap.mmap(-1, size_bytes)
    except (OSError, ValueError, OverflowError):
        barrier.abort()
        return
    held = ctypes.c_char.from_buffer(buffer)
    try:
        address = ctypes.addressof(held)
        filled = _fill(address, size_bytes)
        barrier.wait(timeout=_FILL_SECONDS + _START_SECONDS)
        start = time.monotonic()
        stop = start + seconds
        offset = 0
        while start < stop:
            size = min(_CALL_BYTES, filled - offset)
            memchr(address + offset, 2, size)
            end = time.monotonic()
            reads.append(_Read(start, end, size))
            start, offset = end, (offset + size) % filled
    except threading.BrokenBarrierError:
        return
    finally:
        del held  # the buffer cannot be closed while something points into it
        buffer.close()


def _fill(address: int, size_bytes: int) -> int:
    """Write to the buffer for at most `_FILL_SECONDS`; return how much of it was reached."""
    import ctypes

    stop = time.monotonic() + _FILL_SECONDS
    filled = 0
    while filled < size_bytes and (not filled or time.monotonic() < stop):
        step = min(_CALL_BYTES, size_bytes - filled)
        ctypes.memset(address + filled, 1, step)
        filled += step
    return filled


def _find_best_slice(reads: list[list[_Read]]) -> float:
    """Return the most bytes per second of any slice of the time in which all threads were reading."""
    if not all(reads):
        return 0.0
    start = max(own[0].start for own in reads)
    length = min(own[-1].end for own in reads) - start
    if length <= 0:
        return 0.0
    slices = max(1, int(length / _SLICE_SECONDS))
    width = length / slices
    sums = [0.0] * slices
    for own in reads:
        for read in own:
            rate = read.size_bytes / max(read.end - read.start, 1e-9)
            first = max(0, int((read.start - start) / width))
            for index in range(first, min(slices, int((read.end - start) / width) + 1)):
                overlap = min(read.end, start + (index + 1) * width) - max(read.start, start + index * width)
                sums[index] += rate * max(0.0, overlap)
    return max(sums) / width
