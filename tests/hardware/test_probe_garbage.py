"""The probes on kernel files that hold anything at all: they say nothing, change nothing, and never raise."""

import json
import os
import random
import sys
from pathlib import Path

import pytest

from llmrun.hardware.machine import probe_machine
from llmrun.hardware.profile import machine_from_json, machine_to_json

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads made-up Linux kernel files")

FILES = (
    "proc/cpuinfo proc/meminfo proc/self/status proc/self/cgroup proc/self/mountinfo proc/1/cgroup proc/1/environ "
    "proc/sys/kernel/osrelease run/systemd/container run/.containerenv .dockerenv sys/fs/cgroup/cpu.max "
    "sys/fs/cgroup/memory.max sys/fs/cgroup/memory.current sys/fs/cgroup/memory.stat "
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list sys/class/drm/card0/device/vendor "
    "sys/class/drm/card0/device/device sys/class/drm/card0/device/revision sys/class/drm/card0/lmem_total_bytes "
    "sys/class/drm/card0/lmem_avail_bytes sys/class/drm/card0/device/mem_info_vram_total "
    "sys/class/drm/card0/device/mem_info_vram_used sys/class/drm/card0/device/product_name "
    "sys/module/amdgpu/version usr/share/libdrm/amdgpu.ids usr/share/misc/pci.ids"
)
TEXTS = (
    "",
    "\n",
    "0",
    "-1",
    "max",
    "²",
    "٣",
    "9" * 400,
    "9" * 5000,
    "0x1002",
    "0x8086\n",
    "\0\0",
    "\ud800",
    ":::",
    "0::/a/../..\n",
    "a b c - d e f\n" * 3,
    "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "MemTotal: ² kB\nMemAvailable: 99999999999999 kB\n",
    "MemTotal: 8 kB\nMemAvailable: 9 kB\n",
    "processor : 0\nmodel name :\nflags :\n\nprocessor\n",
    "² 100000",
    "100000 ²",
    "inactive_file ²\n",
    "VmSize: ² kB\n",
    "HOME=/\0container=\x1b[2J\0",
    "Microsoft",
)
# Without these the probes would not come to the rest.
SOUND = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/class/drm/card0/device/vendor": "0x1002\n",
    "sys/fs/cgroup/memory.max": "1000000\n",
}


@pytest.mark.parametrize("seed", range(150))
def test_never_raises(tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    source = random.Random(seed)
    for name in FILES.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in SOUND and source.random() < 0.8:
            path.write_text(SOUND[name])
            continue
        kind = source.randrange(8)
        if kind == 0:
            path.mkdir()
        elif kind == 1:
            path.symlink_to(path.name)  # a loop
        elif kind > 2:
            path.write_bytes(source.choice(TEXTS).encode("utf-8", "surrogatepass"))
    before = dict(os.environ)
    machine = probe_machine(tmp_path, disk_folder=tmp_path)
    assert machine.cpu.threads >= 1
    assert machine.memory.available_bytes >= 0
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_garbage_that_was_probed_can_be_saved_and_read(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_bytes(b"model name : \xff\x1b[2J CPU\nflags : \x1b x\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 9 kB\n")
    machine = probe_machine(tmp_path)
    read = machine_from_json(json.dumps(machine_to_json(machine)), "test")
    assert read.cpu.name == "\ufffd [2J CPU"
    assert read.memory == machine.memory
