"""Compilers are found, told apart, and left out when they cannot build anything; on a PATH of made-up programs."""

import sys
from pathlib import Path

import pytest

from llmrun.hardware.toolchain import parse_compiler_version, probe_toolchain
from llmrun.hardware.types import Accelerator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the made-up programs are shell scripts")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param("Debian clang version 19.1.7 (3+b1)\nTarget: x86_64", ("clang", (19, 1, 7)), id="debian clang"),
        pytest.param("clang version 21.0.0git (https://x)\n", ("clang", (21, 0, 0)), id="clang from source"),
        pytest.param(
            "Apple clang version 15.0.0 (clang-1500.3.9.4)\n", ("apple-clang", (15, 0, 0)), id="apple's clang"
        ),
        pytest.param(
            "gcc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.\n",
            ("gcc", (12, 2, 0)),
            id="debian gcc",
        ),
        pytest.param(
            "gcc-13 (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0\nCopyright (C) 2023 Free Software Foundation, Inc.\n",
            ("gcc", (13, 3, 0)),
            id="ubuntu gcc",
        ),
        pytest.param("gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)\n", ("gcc", (14, 2, 1)), id="red hat gcc"),
        pytest.param(
            "x86_64-conda-linux-gnu-cc (conda-forge gcc 13.2.0-5) 13.2.0\nCopyright (C) 2023 Free Software "
            "Foundation, Inc.\n",
            ("gcc", (13, 2, 0)),
            id="conda gcc",
        ),
        pytest.param("xcrun: error: invalid active developer path\n", None, id="not installed on a Mac"),
        pytest.param("tcc version 0.9.27 (x86_64 Linux)\n", None, id="another compiler"),
        pytest.param("", None, id="silent"),
    ],
)
def test_version(output: str, expected: tuple[str, tuple[int, ...]] | None) -> None:
    assert parse_compiler_version(output) == expected


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def compiler(folder: Path, name: str, version: str, *, works: bool = True, openmp: bool = True) -> None:
    cxx = name.replace("clang", "clang++").replace("gcc", "g++")
    program(folder, name, f'echo "{version}"')
    body = "" if works else "echo \"probe.cpp:1:10: fatal error: 'filesystem' file not found\" >&2; exit 1\n"
    if not openmp:
        body += 'case "$*" in *fopenmp*) echo "cannot find -lomp" >&2; exit 1;; esac'
    program(folder, cxx, body or "true")


def test_finds_every_compiler_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    compiler(folder, "clang-19", "Debian clang version 19.1.7")
    compiler(folder, "clang-14", "Debian clang version 14.0.6", openmp=False)
    compiler(folder, "gcc", "gcc (Debian 12.2.0-14) 12.2.0")
    compiler(folder, "clang-16", "Debian clang version 16.0.6", works=False)
    program(folder, "clang-format-19", "true")
    program(folder, "gcc-ar", "true")
    (folder / "gcc-12").symlink_to(folder / "gcc")
    (folder / "g++-12").symlink_to(folder / "g++")
    toolchain = probe_toolchain({"PATH": str(folder)})
    found = {(item.family, item.version, item.openmp) for item in toolchain.compilers}
    assert found == {
        ("clang", (19, 1, 7), "libomp"),
        ("clang", (14, 0, 6), None),
        ("gcc", (12, 2, 0), "libgomp"),
    }
    assert len(toolchain.problems) == 1
    assert "clang++-16 cannot build a C++17 program" in toolchain.problems[0]
    assert "'filesystem' file not found" in toolchain.problems[0]


def test_the_users_own_compiler_is_the_only_one(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    compiler(folder, "clang-19", "Debian clang version 19.1.7")
    compiler(folder, "gcc", "gcc (Debian 12.2.0-14) 12.2.0")
    environment = {"PATH": str(folder), "CC": "gcc", "CXX": "g++"}
    assert [item.family for item in probe_toolchain(environment).compilers] == ["gcc"]


def test_a_c_compiler_without_its_cxx_is_none(tmp_path: Path) -> None:
    program(tmp_path / "bin", "gcc", 'echo "gcc (x) 12.2.0"')
    assert probe_toolchain({"PATH": str(tmp_path / "bin")}).compilers == ()


def test_without_verification_a_compiler_is_only_asked_for_its_version(tmp_path: Path) -> None:
    for name in ("gcc", "g++"):  # which could not build anything
        program(tmp_path / "bin", name, 'test "$1" = --version && echo "gcc (x) 12.2.0"')
    environment = {"PATH": str(tmp_path / "bin")}
    assert probe_toolchain(environment).compilers == ()
    (compiler,) = probe_toolchain(environment, verify=False).compilers
    assert (compiler.family, compiler.version) == ("gcc", (12, 2, 0))


def test_gpu_toolkits(tmp_path: Path) -> None:
    for home, name in (("cuda", "nvcc"), ("rocm", "hipcc"), ("vulkan", "glslc")):
        program_folder = tmp_path / home / "bin"
        program_folder.mkdir(parents=True)
        program(program_folder, name, "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    header = tmp_path / "vulkan/include/vulkan/vulkan.h"
    header.parent.mkdir(parents=True)
    header.touch()
    environment = {
        "PATH": str(tmp_path / "empty"),
        "CUDA_HOME": str(tmp_path / "cuda"),
        "ROCM_PATH": str(tmp_path / "rocm"),
        "VULKAN_SDK": str(tmp_path / "vulkan"),
    }
    toolchain = probe_toolchain(environment)
    assert toolchain.cuda_version == "13.0"
    found = dict(toolchain.accelerators)
    assert found[Accelerator.CUDA] == str(tmp_path / "cuda/bin/nvcc")
    assert found[Accelerator.ROCM] == str(tmp_path / "rocm/bin/hipcc")
    assert found[Accelerator.VULKAN] == str(tmp_path / "vulkan/bin/glslc")


def test_an_empty_path(tmp_path: Path) -> None:
    toolchain = probe_toolchain({"PATH": str(tmp_path)})
    assert (toolchain.compilers, toolchain.cmake, toolchain.ninja) == ((), None, None)
