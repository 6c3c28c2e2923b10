"""Containers, WSL and disk space, from made-up files."""

import os
import sys
from pathlib import Path

import pytest

from llmrun.hardware.host import probe_container, probe_disk, probe_wsl
from llmrun.hardware.machine import probe_machine

DOCKER_V1 = "12:memory:/docker/0123456789abcdef\n0::/\n"
POD = "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-0123.scope\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "environment", "kind"),
    [
        pytest.param({}, {}, None, id="a machine"),
        pytest.param({"proc/1/cgroup": "0::/init.scope\n"}, {}, None, id="a machine with systemd"),
        pytest.param({".dockerenv": ""}, {}, "docker", id="docker"),
        pytest.param({"run/.containerenv": "engine=podman\n"}, {}, "podman", id="podman"),
        pytest.param({".dockerenv": "", "run/.containerenv": ""}, {}, "podman", id="podman that plays docker"),
        pytest.param({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes", id="pod"),
        pytest.param({"var/run/secrets/kubernetes.io/serviceaccount/token": ""}, {}, "kubernetes", id="pod's secret"),
        pytest.param({"proc/1/environ": "HOME=/\0container=lxc\0"}, {}, "lxc", id="lxc"),
        pytest.param({"run/systemd/container": "systemd-nspawn\n"}, {}, "systemd-nspawn", id="nspawn"),
        pytest.param({}, {"container": "podman"}, "podman", id="own environment"),
        pytest.param({".dockerenv": ""}, {"container": "oci"}, "docker", id="oci is docker where docker says so"),
        pytest.param({}, {"container": "oci"}, "oci", id="oci and nothing else"),
        pytest.param({}, {"container": "\x1b[31m"}, None, id="an unknown value is not repeated"),
        pytest.param({"proc/1/environ": "precontainer=lxc\0"}, {}, None, id="another variable"),
        pytest.param({"proc/1/cgroup": DOCKER_V1}, {}, "docker", id="group of docker"),
        pytest.param({"proc/1/cgroup": POD}, {}, "kubernetes", id="group of kubernetes"),
        pytest.param({"proc/1/cgroup": "0::/machine.slice/libpod-0123.scope\n"}, {}, "podman", id="group of podman"),
        pytest.param({"proc/1/cgroup": "0::/lxc.payload.box\n"}, {}, "lxc", id="group of lxc"),
    ],
)
def test_container(tmp_path: Path, files: dict[str, str], environment: dict[str, str], kind: str | None) -> None:
    assert probe_container(write(tmp_path, files), environment) == kind


@pytest.mark.parametrize(
    ("release", "wsl"),
    [
        pytest.param("5.15.167.4-microsoft-standard-WSL2\n", True, id="wsl 2"),
        pytest.param("4.4.0-19041-Microsoft\n", True, id="wsl 1"),
        pytest.param("6.8.0-1021-azure\n", False, id="a machine in Microsoft's cloud"),
        pytest.param("", False, id="empty"),
    ],
)
def test_wsl(tmp_path: Path, release: str, wsl: bool) -> None:
    assert probe_wsl(write(tmp_path, {"proc/sys/kernel/osrelease": release})) is wsl


def test_no_file_is_no_wsl(tmp_path: Path) -> None:
    assert probe_wsl(tmp_path) is False


@pytest.mark.skipif(sys.platform == "win32", reason="compares with statvfs")
def test_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    free, problems = probe_disk(tmp_path / "not" / "yet")
    disk = os.statvfs(tmp_path)
    assert free == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.05, abs=1 << 26)
    assert problems == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="another error on Windows")
def test_a_file_on_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    free, (problem,) = probe_disk(tmp_path / "file" / "cache")
    assert free is None
    assert problem.startswith("disk: the free space of ")


@pytest.mark.skipif(sys.platform != "linux", reason="reads made-up Linux kernel files")
def test_the_machine_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    root = write(tmp_path, {".dockerenv": "", "proc/sys/kernel/osrelease": "5.15-microsoft-standard-WSL2"})
    machine = probe_machine(root, disk_folder=tmp_path / "cache")
    assert (machine.container, machine.wsl) == ("docker", True)
    assert machine.disk_free_bytes
    assert probe_machine(root).disk_free_bytes is None


def test_the_environment_is_only_read(tmp_path: Path) -> None:
    before = dict(os.environ)
    probe_machine(disk_folder=tmp_path)
    assert dict(os.environ) == before
