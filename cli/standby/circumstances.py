"""What must be the same in two processes for one to carry out the other's command.

What can be passed on (files, folder, environment, umask) is not in here. What cannot, or is read once when the
interpreter starts, is compared as a text: the program, its limits, its control group and namespaces, its processors.
"""

import os
import sys

import llmrun

__all__ = ["describe_circumstances"]

_NAMESPACES = ("mnt", "pid", "net", "user", "ipc")
_READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_")


def describe_circumstances() -> str:
    """Return a text that is equal for processes that can stand in for each other."""
    import resource

    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    limits = [(name, resource.getrlimit(getattr(resource, name))) for name in names]
    parts = [
        sys.executable,
        sys.version,
        str(llmrun.__file__),
        llmrun.__version__,
        repr(limits),
        repr((os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups())),
        repr(os.getpriority(os.PRIO_PROCESS, 0)),
        _processors(),
        _read("/proc/self/cgroup"),
        *(_namespace(name) for name in _NAMESPACES),
        *sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(_READ_AT_START)),
    ]
    return "\n".join(parts)


def _processors() -> str:
    return repr(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib takes ten milliseconds
            return file.read()
    except OSError:
        return ""


def _namespace(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{name}")  # noqa: PTH115
    except OSError:
        return ""
