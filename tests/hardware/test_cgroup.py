"""Limits of control groups: both versions, every ancestor, and the ways a container shows them."""

from pathlib import Path

import pytest

from llmrun.hardware.cgroup import read_cpu_quota, read_memory_limits

MIB = 1 << 20
V2_MOUNT = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1_mount(controller: str, top: str = "/") -> str:
    return f"31 25 0:27 {top} /sys/fs/cgroup/{controller} rw shared:9 - cgroup cgroup rw,{controller}\n"


def tree(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({"a/b/cpu.max": "250000 100000\n"}, 2.5, id="own group"),
        pytest.param({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5, id="parent"),
        pytest.param({"a/b/cpu.max": "400000 100000\n", "cpu.max": "50000 100000\n"}, 0.5, id="top, tighter"),
        pytest.param({"a/b/cpu.max": "max 100000\n"}, None, id="unlimited"),
        pytest.param({"a/b/cpu.max": "nonsense\n"}, None, id="unreadable"),
        pytest.param({"a/b/cpu.max": "100000 0\n"}, None, id="period of zero"),
        pytest.param({}, None, id="no file"),
    ],
)
def test_cpu_quota_v2(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    tree(tmp_path, "0::/a/b\n", V2_MOUNT, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert read_cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        pytest.param({"docker/x": (300000, 100000)}, 3.0, id="own group"),
        pytest.param({"docker/x": (-1, 100000), "docker": (120000, 60000)}, 2.0, id="parent"),
        pytest.param({"docker/x": (-1, 100000)}, None, id="unlimited"),
    ],
)
def test_cpu_quota_v1(tmp_path: Path, quotas: dict[str, tuple[int, int]], expected: float | None) -> None:
    files = {}
    for group, (quota, period) in quotas.items():
        files[f"sys/fs/cgroup/cpu,cpuacct/{group}/cpu.cfs_quota_us"] = f"{quota}\n"
        files[f"sys/fs/cgroup/cpu,cpuacct/{group}/cpu.cfs_period_us"] = f"{period}\n"
    tree(tmp_path, "3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n", v1_mount("cpu,cpuacct"), files)
    assert read_cpu_quota(tmp_path) == expected


def test_memory_v2_takes_every_ancestor_and_counts_cache_as_free(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.high": f"{900 * MIB}\n",
        "sys/fs/cgroup/a/b/memory.current": f"{200 * MIB}\n",
        "sys/fs/cgroup/a/memory.max": f"{1000 * MIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{600 * MIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {100 * MIB}\nactive_file 7\n",
    }
    tree(tmp_path, "0::/a/b\n", V2_MOUNT, files)
    limits = {
        limit.source: (limit.limit_bytes // MIB, limit.free_bytes // MIB) for limit in read_memory_limits(tmp_path)
    }
    assert limits == {"cgroup v2 /a/b memory.high": (900, 700), "cgroup v2 /a memory.max": (1000, 500)}


def test_memory_v1_knows_the_number_that_means_unlimited(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{512 * MIB}\n",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{300 * MIB}\n",
        "sys/fs/cgroup/memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MIB}\n",
    }
    tree(tmp_path, "4:memory:/a/b\n0::/\n", v1_mount("memory"), files)
    (limit,) = read_memory_limits(tmp_path)
    assert (limit.limit_bytes, limit.free_bytes) == (512 * MIB, 262 * MIB)
    assert limit.source == "cgroup v1 /a memory.limit_in_bytes"


def test_use_above_the_limit_leaves_nothing_rather_than_a_negative_amount(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": f"{10 * MIB}\n", "sys/fs/cgroup/memory.current": f"{11 * MIB}\n"}
    tree(tmp_path, "0::/\n", V2_MOUNT, files)
    assert read_memory_limits(tmp_path)[0].free_bytes == 0


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [
        pytest.param("4:memory:/docker/abc\n", v1_mount("memory", "/docker/abc"), id="mount shows only the container"),
        pytest.param("4:memory:/../..\n", v1_mount("memory"), id="group lies outside the namespace"),
        pytest.param("4:memory:/docker/abc\n", v1_mount("memory", "/other"), id="mount shows another group"),
        pytest.param("4:memory:/docker/abc\n", v1_mount("memory"), id="folders of the path are not there"),
    ],
)
def test_in_a_container_the_limit_at_the_mount_counts(tmp_path: Path, cgroup: str, mountinfo: str) -> None:
    tree(tmp_path, cgroup, mountinfo, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{64 * MIB}\n"})
    assert [limit.limit_bytes for limit in read_memory_limits(tmp_path)] == [64 * MIB]


def test_mount_point_with_an_escaped_space(tmp_path: Path) -> None:
    mount = V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/c\\040group ")
    tree(tmp_path, "0::/\n", mount, {"sys/fs/c group/memory.max": f"{MIB}\n"})
    assert [limit.limit_bytes for limit in read_memory_limits(tmp_path)] == [MIB]


@pytest.mark.parametrize("mountinfo", ["", "garbage\n", "1 2 3\n - - -\n"])
def test_without_control_groups_there_are_no_limits(tmp_path: Path, mountinfo: str) -> None:
    tree(tmp_path, "0::/\n", mountinfo, {})
    assert read_cpu_quota(tmp_path) is None
    assert read_memory_limits(tmp_path) == ()


def test_no_proc_at_all(tmp_path: Path) -> None:
    assert read_cpu_quota(tmp_path) is None
    assert read_memory_limits(tmp_path) == ()
