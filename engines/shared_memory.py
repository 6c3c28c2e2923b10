"""The one thing that LLVM's OpenMP leaves in shared memory when its process is killed: a mark of its presence.

It is a page of `/dev/shm`, named after the process, by which a second copy of the library in that process would be
noticed, and it is removed only at an orderly end. Workers end at once, or are killed, so it is taken away as soon as
it has been made, and by whoever outlives the process. Nothing but the mark of that very process is touched.
"""

import contextlib
import os

__all__ = ["remove_openmp_mark"]


def remove_openmp_mark(pid: int) -> None:
    """Remove the mark of a process of this user; it does not matter whether there is one."""
    if hasattr(os, "getuid"):
        with contextlib.suppress(OSError):
            # Source: __kmp_reg_status_get in openmp/runtime/src/kmp_runtime.cpp of LLVM
            os.unlink(f"/dev/shm/__KMP_REGISTERED_LIB_{pid}_{os.getuid()}")  # noqa: PTH108, S108 - light: no pathlib
