"""Where this process runs: in which container, inside Windows or not, and how much its disk still takes.

Only files that a container's makers put there are read, and nothing is asked of a daemon. What cannot be seen is not
there: a container that hides itself well looks like a machine. Nothing is raised.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from llmrun.hardware.sysfiles import read_text

__all__ = ["probe_container", "probe_disk", "probe_wsl"]

# What a container manager calls itself in the variable `container` of the first process.
# Source: https://systemd.io/CONTAINER_INTERFACE/
_MANAGERS = ("docker", "podman", "lxc", "lxc-libvirt", "systemd-nspawn", "rkt", "oci", "bubblewrap", "flatpak")
# Parts of the control group's path of a container, for hosts that show it; Kubernetes first: its paths hold the others.
_CGROUP_MARKS = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("/docker", "docker"),
    ("/lxc", "lxc"),
    ("lxc.payload", "lxc"),
    ("/machine.slice/systemd-nspawn", "systemd-nspawn"),
)


def probe_container(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> str | None:
    """Return what kind of container this is (`docker`, `kubernetes`, …), or None."""
    environment = os.environ if environment is None else environment
    if environment.get("KUBERNETES_SERVICE_HOST") or _exists(root / "var/run/secrets/kubernetes.io"):
        return "kubernetes"
    if _exists(root / "run/.containerenv"):
        return "podman"
    declared = _read_declared(root, environment)
    if declared is not None and declared != "oci":  # oci: made by the standard, which Docker's files say better
        return declared
    if _exists(root / ".dockerenv"):
        return "docker"
    groups = read_text(root / "proc/1/cgroup") or ""
    return next((kind for mark, kind in _CGROUP_MARKS if mark in groups), declared)


def probe_wsl(root: Path = Path("/")) -> bool:
    """Say whether this Linux is Windows' subsystem.

    Source: Microsoft names its kernels so (`5.15.167.4-microsoft-standard-WSL2`, `4.4.0-19041-Microsoft`).
    """
    return "microsoft" in (read_text(root / "proc/sys/kernel/osrelease") or "").lower()


def probe_disk(folder: Path) -> tuple[int | None, tuple[str, ...]]:
    """Return the bytes that this user may still write where `folder` is or would be, and a sentence if unknown."""
    for existing in (folder, *folder.absolute().parents):
        try:
            return _free_bytes(existing), ()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            return None, (f"disk: the free space of {existing} cannot be read ({error})",)
    return None, (f"disk: {folder} is on no disk that is here",)


def _free_bytes(folder: Path) -> int:
    if hasattr(os, "statvfs"):
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize
    import shutil

    return shutil.disk_usage(folder).free


def _read_declared(root: Path, environment: Mapping[str, str]) -> str | None:
    """Return what the container says of itself, where it is a known kind."""
    first = read_text(root / "proc/1/environ") or ""  # of another user it cannot be read
    declared = next((item[10:] for item in first.split("\0") if item.startswith("container=")), "")
    for value in (declared, read_text(root / "run/systemd/container") or "", environment.get("container", "")):
        if value.strip() in _MANAGERS:
            return value.strip()
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder on the way may not be entered
        return False
