"""What Linux control groups allow this process: CPUs and memory, at every ancestor, in v1 and v2.

The tightest limit may be set on any ancestor (a container's group above the process's own), so all of them are read.
`/proc/self/cgroup` says in which group the process is, `/proc/self/mountinfo` where that hierarchy can be seen; inside
a container the two disagree, and whatever part of the path lies outside the mount is out of sight and left out.
Nothing is raised: without control groups there are no limits.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/memory.html, .../scheduler/sched-bwc.html
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmrun.hardware.sysfiles import read_int, read_text
from llmrun.values import value

__all__ = ["MemoryLimit", "read_cpu_quota", "read_memory_limits"]

_UNLIMITED_V1_BYTES = 1 << 60  # v1 writes "no limit" as the largest multiple of a page, 0x7ffffffffffff000
_OCTAL_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


@value
class MemoryLimit:
    """The memory limit of one control group.

    Attributes:
        limit_bytes: What the group's processes may hold together.
        free_bytes: The limit less what they hold; cached file pages that can be dropped at once count as free.
        source: Which file says so, for the user (`cgroup v2 /docker/abc memory.max`).
    """

    limit_bytes: int
    free_bytes: int
    source: str


class _Group(NamedTuple):
    """One control group of this process. `name` is its path as the mount shows it, `/` for the top."""

    version: int
    folder: Path
    name: str


def read_cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPUs that the tightest ancestor allows (2.5: two and a half), or None when there is no limit."""
    quotas = [
        quota
        for group in _iterate_groups(root, "cpu")
        if (quota := _quota_v2(group.folder) if group.version == 2 else _quota_v1(group.folder)) is not None
    ]
    return min(quotas, default=None)


def read_memory_limits(root: Path = Path("/")) -> tuple[MemoryLimit, ...]:
    """Return the memory limit of every ancestor that has one."""
    found: list[MemoryLimit] = []
    for group in _iterate_groups(root, "memory"):
        found.extend(_limits_v2(group) if group.version == 2 else _limits_v1(group))
    return tuple(found)


def _quota_v2(folder: Path) -> float | None:
    fields = (read_text(folder / "cpu.max") or "").split()
    if len(fields) != 2 or not all(field.isdecimal() for field in fields) or int(fields[1]) == 0:
        return None
    return int(fields[0]) / int(fields[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _limits_v2(group: _Group) -> Iterator[MemoryLimit]:
    used = read_int(group.folder / "memory.current") or 0
    used = max(0, used - _stat(group.folder, "inactive_file"))
    for file in ("memory.max", "memory.high"):  # above `high` the kernel slows the processes down to a crawl
        limit = read_int(group.folder / file)
        if limit is not None:
            source = f"cgroup v2 {group.name} {file}"
            yield MemoryLimit(limit_bytes=limit, free_bytes=max(0, limit - used), source=source)


def _limits_v1(group: _Group) -> Iterator[MemoryLimit]:
    limit = read_int(group.folder / "memory.limit_in_bytes")
    if limit is None or not 0 <= limit < _UNLIMITED_V1_BYTES:
        return
    used = read_int(group.folder / "memory.usage_in_bytes") or 0
    used = max(0, used - _stat(group.folder, "total_inactive_file"))
    source = f"cgroup v1 {group.name} memory.limit_in_bytes"
    yield MemoryLimit(limit_bytes=limit, free_bytes=max(0, limit - used), source=source)


def _stat(folder: Path, key: str) -> int:
    for line in (read_text(folder / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0


def _iterate_groups(root: Path, controller: str) -> Iterator[_Group]:
    """Yield this process's group and all its visible ancestors, in every hierarchy that may hold the controller."""
    mounts = tuple(_iterate_mounts(root))
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 1 if controllers else 2
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.version == version and (version == 2 or controller in mount.controllers):
                yield from _ancestors(root, mount, path)
                break


class _Mount(NamedTuple):
    """Where one hierarchy can be seen; `top` is the group that the mount point shows."""

    version: int
    controllers: tuple[str, ...]
    top: str
    point: str


def _iterate_mounts(root: Path) -> Iterator[_Mount]:
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        left_fields, right_fields = left.split(), right.split()
        if len(left_fields) < 6 or len(right_fields) < 3 or right_fields[0] not in {"cgroup", "cgroup2"}:
            continue
        yield _Mount(
            version=2 if right_fields[0] == "cgroup2" else 1,
            controllers=tuple(right_fields[2].split(",")),
            top=_unescape(left_fields[3]),
            point=_unescape(left_fields[4]),
        )


def _ancestors(root: Path, mount: _Mount, path: str) -> Iterator[_Group]:
    top = mount.top.rstrip("/")
    inside = path[len(top) :] if path == top or path.startswith(top + "/") else ""
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:  # the group lies outside this cgroup namespace: only the mount itself can be seen
        parts = []
    base = root / mount.point.lstrip("/")
    for length in range(len(parts), -1, -1):
        yield _Group(version=mount.version, folder=base.joinpath(*parts[:length]), name="/" + "/".join(parts[:length]))


def _unescape(text: str) -> str:
    for escape, character in _OCTAL_ESCAPES.items():
        text = text.replace(escape, character)
    return text
