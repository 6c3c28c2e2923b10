"""How long the threads of GNU's OpenMP runtime spin for the next piece of work before they sleep, chosen while running.

PyTorch computes a token in some three hundred pieces with ten to fifty microseconds of Python between them, and waking
a thread takes longer than that, so threads that spin are fastest, if nothing else wants the cores. If another program
does, a thread spins where the one that it waits for could compute, and a token takes ten times as long. So they spin
while the other programs leave a core for each of them, and sleep at once while they do not. How the work is shared out
stays the same, and with it every bit of the result, which fewer threads would not promise.

The runtime reads once, before anything is computed, how often a thread looks before it sleeps. But it looks a hundred
times only while it has more threads than there are cores. So for short spins one thread is started with a team of its
own that never computes anything.

On 2 cores of an EPYC (Zen 4) with the test model's twin, in tokens per second, alone and beside a busy process: PyTorch
30 to 35 and 6 with long spins, 23 to 26 and 20 to 22 with short ones; vLLM 37 to 43 and 4.5 with long spins, 27 to 30
and 24 to 29 with short ones. A middle length (50 microseconds) kept 38 and 13.

Source: GOMP_SPINCOUNT in libgomp's manual, gomp_team_start in team.c; measured with torch 2.13 and vLLM 0.32.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Spinning", "find_openmp", "limit_spinning", "user_decides"]

_SPINS = "20000"  # some 330 microseconds


def user_decides() -> bool:
    """Return whether the environment says how threads wait."""
    return bool({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys())


def limit_spinning() -> bool:
    """Set the long spin for this process, before the library is imported, unless the user has set how threads wait.

    Returns:
        Whether it was set, so that `Spinning` can choose.
    """
    if user_decides():
        return False
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    return True


def find_openmp(torch: Any) -> Any:
    """Return GNU's OpenMP runtime as PyTorch uses it; None where it uses another one, or none."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        if not hasattr(library, "kmp_set_blocktime"):  # LLVM's and Intel's, which know GNU's entry points too
            library.GOMP_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            library.GOMP_parallel.restype = None
            return library
    return None


class Spinning:
    """Switches between long and short spins.

    Args:
        start_team: Starts so many threads of the runtime from the calling thread, which they belong to.
        spare_threads: So many more are needed to have more threads than cores.

    Attributes:
        short: Whether spins are short.
    """

    def __init__(self, start_team: Callable[[int], object], spare_threads: int) -> None:
        self._start_team = start_team
        self._spare_threads = spare_threads
        self._over: threading.Event | None = None
        self._holder: threading.Thread | None = None

    @classmethod
    def of_runtime(cls, openmp: Any, threads: int, cores: int) -> "Spinning":
        """Return the switch of a runtime that computes with so many threads."""
        harmless = ctypes.cast(openmp.omp_get_num_threads, ctypes.c_void_p)
        return cls(lambda count: openmp.GOMP_parallel(harmless, None, count, 0), max(1, cores - threads + 1))

    @property
    def short(self) -> bool:
        """Whether spins are short."""
        return self._holder is not None

    def shorten(self) -> None:
        """Have threads sleep almost at once."""
        if self._holder is not None:
            return
        ready, over = threading.Event(), threading.Event()

        def hold() -> None:
            self._start_team(1 + self._spare_threads)
            ready.set()
            over.wait()

        self._over, self._holder = over, threading.Thread(target=hold, daemon=True)
        self._holder.start()
        ready.wait()

    def lengthen(self) -> None:
        """Have threads spin as long as the environment says."""
        if self._holder is not None and self._over is not None:
            self._over.set()
            self._holder.join()
            self._over = self._holder = None
