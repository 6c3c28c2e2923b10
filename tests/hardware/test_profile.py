"""Machines as JSON: what is written is read again, and what is not a machine is refused by the name of its field."""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmrun.errors import UsageError
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.profile import MAX_PROFILE_BYTES, machine_from_json, machine_to_json, read_machine
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo

GIB = 1 << 30
TEXTS = ("x", "AMD Ryzen™ 9", "Intel(R) Core(TM) i5-2410M CPU @ 2.30GHz", "名前", '"quoted" \\ text', "a" * 2000)


def generate_gpu(source: random.Random) -> GPU:
    total = source.choice([None, 1, source.randrange(1, 1 << 40)])
    return GPU(
        vendor=source.choice(list(GpuVendor)),
        name=source.choice(TEXTS),
        total_bytes=total,
        free_bytes=None if total is None else source.choice([None, 0, total, source.randrange(total)]),
        compute_capability=source.choice([None, "9.0", "12.1"]),
        driver=source.choice([None, "580.159", "32.0.15.6094"]),
        cuda_version=source.choice([None, "13.0"]),
        unified_memory=source.random() < 0.5,
    )


def generate_machine(seed: int) -> Machine:
    source = random.Random(seed)
    total = source.choice([0, 1, source.randrange(1, 1 << 44)])
    limit = source.choice([None, source.randrange(1 << 45)])
    cpu = CpuInfo(
        name=source.choice([None, *TEXTS]),
        architecture=source.choice(["x86_64", "arm64", "riscv64"]),
        physical_cores=source.choice([None, 1, 65536]),
        logical_cores=source.randrange(1, 512),
        affinity=source.randrange(1, 512),
        quota=source.choice([None, 0.5, 2.0, 2.5, 64.0]),
        isa_flags=frozenset(source.sample(["avx", "avx2", "avx512_vnni", "amx_int8", "asimd", "i8mm"], 3)),
    )
    return Machine(
        system=source.choice(["linux", "darwin", "windows", "freebsd14"]),
        python_version=source.choice(["3.11.7", "3.14.0"]),
        cpu=cpu,
        memory=MemoryInfo(
            total_bytes=total,
            available_bytes=source.randrange(total + 1),
            limit_bytes=limit,
            limit_source=None if limit is None else source.choice(["RLIMIT_AS", "cgroup v2 /docker/abc memory.max"]),
        ),
        gpus=tuple(generate_gpu(source) for _ in range(source.randrange(4))),
        problems=tuple(source.sample(TEXTS, source.randrange(3))),
        disk_free_bytes=source.choice([None, 0, source.randrange(1 << 50)]),
        container=source.choice([None, "docker", "systemd-nspawn"]),
        wsl=source.random() < 0.5,
        memory_bandwidth_bytes_per_second=source.choice([None, 2.56e10, source.uniform(1e6, 1e14)]),
    )


def document(**changes: Any) -> dict[str, Any]:
    """Return a small valid machine file; a change named `cpu__quota` goes one level deeper."""
    data: dict[str, Any] = {
        "version": 1,
        "system": "linux",
        "python_version": "3.11.7",
        "cpu": {
            "name": "Test CPU",
            "architecture": "x86_64",
            "physical_cores": 4,
            "logical_cores": 8,
            "affinity": 8,
            "quota": None,
            "isa_flags": ["avx2"],
        },
        "memory": {"total_bytes": 8 * GIB, "available_bytes": 4 * GIB},
        "gpus": [{"vendor": "nvidia", "name": "Test GPU", "total_bytes": 8 * GIB, "free_bytes": 8 * GIB}],
    }
    for name, value in changes.items():
        *parents, key = name.split("__")
        target: Any = data
        for parent in parents:
            target = target[int(parent) if parent.isdigit() else parent]
        target[key] = value
    return data


@pytest.mark.parametrize("seed", range(200))
def test_round_trip(seed: int) -> None:
    machine = generate_machine(seed)
    assert machine_from_json(json.dumps(machine_to_json(machine, source="made up")), "test") == machine


def test_the_generated_machines_differ() -> None:
    machines = [generate_machine(seed) for seed in range(200)]
    assert len(set(machines)) == 200
    assert {len(machine.gpus) for machine in machines} == {0, 1, 2, 3}


def test_this_machine_round_trips() -> None:
    machine = probe_machine()
    assert machine_from_json(json.dumps(machine_to_json(machine)), "test") == machine


def test_text_that_no_file_may_hold_is_made_plain_when_written() -> None:
    machine = machine_from_json(json.dumps(document()), "test")
    gpu = GPU(vendor=GpuVendor.AMD, name="", total_bytes=None, free_bytes=None)
    odd = Machine(
        system=machine.system,
        python_version=machine.python_version,
        cpu=machine.cpu,
        memory=machine.memory,
        gpus=(gpu,),
        problems=("two\nlines \x1b[31m", "x" * 9999),
    )
    read = machine_from_json(json.dumps(machine_to_json(odd)), "test")
    assert read.problems[0] == "two lines  [31m"
    assert len(read.problems[1]) == 2000
    assert read.gpus[0].name == " "


def test_the_small_file_is_valid_and_what_it_leaves_out_has_its_default() -> None:
    machine = machine_from_json(json.dumps(document()), "test")
    assert (machine.container, machine.wsl, machine.disk_free_bytes, machine.problems) == (None, False, None, ())
    assert machine.gpus[0].unified_memory is False


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        pytest.param({"version": 2}, "version", "reads version 1", id="newer"),
        pytest.param({"version": "1"}, "version", "reads version 1", id="version as text"),
        pytest.param({"version": True}, "version", "reads version 1", id="version as truth"),
        pytest.param({"system": 5}, "system", "not a text", id="number for text"),
        pytest.param({"system": "Lin ux"}, "system", "cannot be", id="no system"),
        pytest.param({"python_version": "new"}, "python_version", "cannot be", id="no python version"),
        pytest.param({"cpu": []}, "cpu", "a list, not an object", id="list for object"),
        pytest.param({"cpu": None}, "cpu", "null, not an object", id="null for object"),
        pytest.param({"cpu__physical_cores": 0}, "cpu.physical_cores", "1 to 65536", id="no core"),
        pytest.param({"cpu__logical_cores": None}, "cpu.logical_cores", "not a whole number", id="null"),
        pytest.param({"cpu__affinity": 8.0}, "cpu.affinity", "not a whole number", id="fraction"),
        pytest.param({"cpu__affinity": True}, "cpu.affinity", "not a whole number", id="truth for number"),
        pytest.param({"cpu__affinity": 10**30}, "cpu.affinity", "1 to 65536", id="too many"),
        pytest.param({"cpu__quota": -1}, "cpu.quota", "0.001 to", id="negative quota"),
        pytest.param({"cpu__quota": "2"}, "cpu.quota", "not a number", id="quota as text"),
        pytest.param({"cpu__isa_flags": "avx2"}, "cpu.isa_flags", "not a list", id="flags as text"),
        pytest.param({"cpu__isa_flags": ["avx2", 5]}, "cpu.isa_flags[1]", "not a text", id="number among flags"),
        pytest.param({"cpu__isa_flags": ["x"] * 1001}, "cpu.isa_flags", "1001 items", id="too many flags"),
        pytest.param({"cpu__name": "\x1b[2J"}, "cpu.name", "cannot be", id="terminal control"),
        pytest.param({"cpu__name": "\ud800"}, "cpu.name", "cannot be", id="half a character"),
        pytest.param({"cpu__name": ""}, "cpu.name", "cannot be", id="empty name"),
        pytest.param({"cpu__name": "x" * 2001}, "cpu.name", "cannot be", id="long name"),
        pytest.param({"cpu__nmae": "x"}, "cpu.nmae", "no field", id="unknown field"),
        pytest.param({"gpu": []}, "gpu", "no field", id="unknown field at the top"),
        pytest.param({"memory__total_bytes": -1}, "memory.total_bytes", "0 to", id="negative memory"),
        pytest.param({"memory__total_bytes": 10**18}, "memory.total_bytes", "0 to", id="an exabyte of memory"),
        pytest.param({"memory__available_bytes": 9 * GIB}, "memory.available_bytes", "more than", id="more than all"),
        pytest.param({"gpus": {}}, "gpus", "not a list", id="gpus as object"),
        pytest.param({"gpus": [5]}, "gpus[0]", "a number, not an object", id="number for gpu"),
        pytest.param({"gpus__0__vendor": "3dfx"}, "gpus[0].vendor", "known are nvidia", id="unknown vendor"),
        pytest.param({"gpus__0__free_bytes": 9 * GIB}, "gpus[0].free_bytes", "more than", id="more free than all"),
        pytest.param({"gpus__0__total_bytes": 0}, "gpus[0].total_bytes", "1 to", id="no gpu memory"),
        pytest.param({"gpus__0__compute_capability": "nine"}, "gpus[0].compute_capability", "cannot be", id="cc"),
        pytest.param({"gpus__0__compute_capability": 9.0}, "gpus[0].compute_capability", "not a text", id="cc number"),
        pytest.param({"gpus__0__cuda_version": "13"}, "gpus[0].cuda_version", "cannot be", id="cuda"),
        pytest.param({"wsl": "yes"}, "wsl", "not true or false", id="wsl as text"),
        pytest.param({"container": "a b"}, "container", "cannot be", id="no container"),
        pytest.param({"problems": [None]}, "problems[0]", "null, not a text", id="null problem"),
        pytest.param({"disk_free_bytes": 1.5}, "disk_free_bytes", "not a whole number", id="half a byte"),
        pytest.param({"source": 5}, "source", "not a text", id="source"),
        pytest.param(
            {"memory_bandwidth_bytes_per_second": 25.6}, "memory_bandwidth_bytes_per_second", "can be", id="in GB/s"
        ),
    ],
)
def test_refused_by_the_name_of_the_field(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        machine_from_json(json.dumps(document(**changes)), "box.json")
    assert caught.value.message.startswith(f"box.json is not a machine file: {field} ")
    assert words in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.fix is not None
    assert "--save-machine" in caught.value.fix


@pytest.mark.parametrize(
    "path",
    [
        "version",
        "system",
        "python_version",
        "cpu",
        "memory",
        "cpu.name",
        "cpu.quota",
        "cpu.isa_flags",
        "memory.total_bytes",
        "memory.available_bytes",
        "gpus.0.vendor",
        "gpus.0.name",
        "gpus.0.total_bytes",
    ],
)
def test_a_missing_field_is_named(path: str) -> None:
    data = document()
    target: Any = data
    *parents, key = path.split(".")
    for parent in parents:
        target = target[int(parent) if parent.isdigit() else parent]
    del target[key]
    with pytest.raises(UsageError) as caught:
        machine_from_json(json.dumps(data), "box.json")
    assert f"{path.replace('.0', '[0]')} is missing" in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "it is empty", id="empty"),
        pytest.param("  \n", "it is empty", id="blank"),
        pytest.param("just text", "Expecting value", id="text"),
        pytest.param("<!DOCTYPE html><html></html>", "Expecting value", id="html"),
        pytest.param('{"version": 1', "Expecting", id="cut"),
        pytest.param("[]", "a list, not an object", id="list"),
        pytest.param("null", "null, not an object", id="null"),
        pytest.param('{"name": "llmrun", "dependencies": {}}', "version is missing", id="other json"),
        pytest.param("[" * 200_000, "nested too deeply", id="deep lists"),
        pytest.param('{"a":' * 150_000, "nested too deeply", id="deep objects"),
        pytest.param('{"version": NaN}', "NaN is no number", id="nan"),
        pytest.param('{"version": -Infinity}', "-Infinity is no number", id="infinity"),
        pytest.param('{"version": 1e999}', "too large a number", id="overflow"),
        pytest.param('{"version": ' + "9" * 5000 + "}", "Exceeds the limit", id="endless digits"),
        pytest.param('{"version": 1, "version": 2}', "given twice", id="twice"),
        pytest.param(" " * (MAX_PROFILE_BYTES + 1), "at most 1048576", id="too large"),
    ],
)
def test_what_is_no_machine(text: str, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError) as caught:
        machine_from_json(text, "box.json")
    assert time.monotonic() - started < 1
    assert caught.value.message.startswith("box.json is not a machine file: ")
    assert words in caught.value.message
    assert len(caught.value.message) < 300


def test_every_single_damage_is_refused_or_read(tmp_path: Path) -> None:
    """Cut and changed files never raise anything else."""
    text = json.dumps(machine_to_json(generate_machine(7)))
    source = random.Random(1)
    refused = 0
    for _ in range(500):
        at = source.randrange(len(text))
        damaged = text[:at] + source.choice(["", "\0", "}", '"', "9", "null", "é"]) + text[at + source.randrange(9) :]
        try:
            machine_from_json(damaged, "box.json")
        except UsageError:
            refused += 1
    assert refused > 300


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    machine = generate_machine(3)
    path.write_text("\ufeff" + json.dumps(machine_to_json(machine)), encoding="utf-8")
    assert read_machine(path) == machine


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFO, and sparse files take their place there")
def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(100 << 20)
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe")
    words = {
        "missing": "cannot read the machine file",
        "fifo": "is not a file that describes a machine",
        ".": "is not a file that describes a machine",
        "large": "it has 104857600 bytes",
        "binary": "it is not text in UTF-8",
        "nul\0": "cannot read the machine file",
    }
    for name, expected in words.items():
        with pytest.raises(UsageError) as caught:
            read_machine(tmp_path / name)
        assert expected in caught.value.message
