"""`llmrun install` as a user types it: on a PATH of made-up compilers, with packages from a folder."""

import io
import json
import shlex
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the made-up compilers are shell scripts")

# Builds nothing: says what it was told to say, and fails.
BACKEND = """
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    print("*** Configuring CMake...", flush=True)
    print("[1/2] clang++-19 -c ops.cpp", flush=True)
    import time
    time.sleep({seconds})
    raise SystemExit({words!r})
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    from pathlib import Path
    folder = Path(metadata_directory, "llama_cpp_python-0.3.36.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: 0.3.36\\n")
    return folder.name
"""


def source_archive(folder: Path, words: str, seconds: float = 0) -> None:
    """Write a llama-cpp-python that needs no network to be built, and cannot be."""
    folder.mkdir()
    files = {
        "backend.py": BACKEND.format(words=words, seconds=seconds),
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "PKG-INFO": "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n",
    }
    with tarfile.open(folder / "llama_cpp_python-0.3.36.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"llama_cpp_python-0.3.36/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def compiler(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    for program in (name, name.replace("clang", "clang++").replace("gcc", "g++")):
        (folder / program).write_text(f'#!/bin/sh\necho "{version}"\n')
        (folder / program).chmod(0o755)


@pytest.fixture
def clang(tmp_path: Path) -> Path:
    # A version that was never released, so that no build that is installed here can be taken for the one asked for.
    compiler(tmp_path / "bin", "clang-19", "Debian clang version 19.9.9")
    return tmp_path / "bin"


@pytest.fixture
def offline_pip(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which pip sees the folder `packages` and nothing else."""
    return {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "packages")}


def test_dry_run_prints_the_commands_and_runs_none(llmrun: Callable[..., Any], clang: Path, tmp_path: Path) -> None:
    done = llmrun("install", "llama-cpp", "--dry-run", "--jobs", "3", "--accelerator", "cpu", env={"PATH": str(clang)})
    assert (done.code, done.errors) == (0, "")
    lines = done.text.splitlines()
    words = shlex.split(lines[0])
    variables = dict(word.split("=", 1) for word in words[:5])
    assert variables["CC"] == f"{clang}/clang-19"
    assert variables["CXX"] == f"{clang}/clang++-19"
    assert variables["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    options = shlex.split(variables["CMAKE_ARGS"])
    include = options[0].removeprefix("-DCMAKE_PROJECT_llama.cpp_INCLUDE=")
    assert Path(include).is_file()
    assert options[1] == "-DGGML_NATIVE=ON"
    assert "-DGGML_OPENMP=ON" in options
    assert Path(words[5]).parent == Path(sys.executable).parent
    assert words[6:8] == ["-m", "pip"]
    assert words[-1] == "llama-cpp-python==0.3.36"
    assert "--no-binary" in words
    assert shlex.split(lines[1])[-1].endswith(".whl")
    assert not list((tmp_path / "cache").glob("logs/*"))


def test_dry_run_as_json(llmrun: Callable[..., Any], clang: Path) -> None:
    done = llmrun("install", "llama-cpp", "--dry-run", "--json", env={"PATH": str(clang)})
    document = json.loads(done.stdout)
    assert (document["version"], document["engine"], document["changed"]) == (1, "llama-cpp", False)
    assert document["build"]["compiler"] == "clang 19.9.9"
    assert document["commands"][0].startswith("CC=")


def test_a_toolkit_without_a_gpu_is_used_only_when_asked_for(llmrun: Callable[..., Any], clang: Path) -> None:
    nvcc = clang / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    asked = llmrun("install", "llama-cpp", "--dry-run", "--accelerator", "cuda", env={"PATH": str(clang)})
    assert f"-DGGML_CUDA=ON -DCMAKE_CUDA_COMPILER={nvcc}" in asked.text
    refused = llmrun("install", "llama-cpp", "--dry-run", "--accelerator", "cpu", env={"PATH": str(clang)})
    assert "GGML_CUDA" not in refused.text


def test_advice_goes_to_standard_error(llmrun: Callable[..., Any], tmp_path: Path) -> None:
    compiler(tmp_path / "bin", "gcc", "gcc (Debian 14.2.0-1) 14.2.0")
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\n")
    (tmp_path / "bin/apt-get").chmod(0o755)
    options = ("install", "llama-cpp", "--dry-run", "--accelerator", "cpu")
    done = llmrun(*options, env={"PATH": str(tmp_path / "bin")})
    assert done.code == 0
    assert done.errors.endswith(": apt-get install clang-19 libomp-19-dev\n") or "x86_64" not in done.text
    assert llmrun(*options, "--quiet", env={"PATH": str(tmp_path / "bin")}).errors == ""


def test_no_compiler(llmrun: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dnf").write_text("#!/bin/sh\n")
    (tmp_path / "bin/dnf").chmod(0o755)
    done = llmrun("install", "llama-cpp", env={"PATH": str(tmp_path / "bin")})
    assert (done.code, done.text) == (6, "")
    assert "needs Clang 14, GCC 9 or newer; found no compiler" in done.errors
    assert "dnf install clang libomp-devel" in done.errors
    assert "Traceback" not in done.errors


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param("ops.cpp:1:1: error: expected ';'", 6, "could not be installed: ops.cpp:1:1: error", id="code"),
        pytest.param("OSError: [Errno 28] No space left on device", 8, "the disk is full", id="disk"),
        pytest.param("c++: fatal error: Killed signal terminated program cc1plus", 5, "ran out of memory", id="memory"),
        pytest.param("CMake Error: CMAKE_CXX_COMPILER not set", 6, "needs a C++ compiler that works", id="compiler"),
    ],
)
def test_a_failing_build_is_one_clear_line(
    llmrun: Callable[..., Any],
    clang: Path,
    offline_pip: dict[str, str],
    tmp_path: Path,
    words: str,
    code: int,
    message: str,
) -> None:
    source_archive(tmp_path / "packages", words)
    done = llmrun("install", "llama-cpp", env=offline_pip | {"PATH": str(clang)})
    assert (done.code, done.text) == (code, "")
    assert "compiling llama-cpp 0.3.36" in done.errors
    assert [line for line in done.errors.splitlines() if message in line and line.startswith("llmrun: ")]
    assert not list((tmp_path / "cache/wheels").glob("*/*.whl"))
    assert not list((tmp_path / "cache/wheels").glob("*/building"))
    quiet = llmrun("install", "llama-cpp", "--quiet", env=offline_pip | {"PATH": str(clang)})
    assert quiet.code == code
    assert message in quiet.errors.splitlines()[0]
    assert len(quiet.errors.splitlines()) <= 2


def test_an_index_without_it(
    llmrun: Callable[..., Any], clang: Path, offline_pip: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "packages").mkdir()
    done = llmrun("install", "llama-cpp", "--quiet", env=offline_pip | {"PATH": str(clang)})
    assert done.code == 6
    assert "the configured package index does not have llama-cpp 0.3.36" in done.errors


def test_no_network(llmrun: Callable[..., Any], clang: Path) -> None:
    unreachable = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "1",
        "PIP_DEFAULT_TIMEOUT": "5",
    }
    done = llmrun("install", "llama-cpp", "--quiet", env=unreachable | {"PATH": str(clang)})
    assert done.code == 7
    assert "fetching llama-cpp 0.3.36 from the package index failed: Connection refused" in " ".join(
        done.errors.split()
    )


def test_prebuilt_when_the_index_has_only_sources(
    llmrun: Callable[..., Any], offline_pip: dict[str, str], tmp_path: Path
) -> None:
    source_archive(tmp_path / "packages", "never built")
    done = llmrun("install", "llama-cpp", "--prebuilt", "--quiet", env=offline_pip)
    assert done.code == 6
    assert "the configured package index does not have a ready wheel of llama-cpp-python" in done.errors
    assert "llmrun install llama-cpp builds one for this machine" in done.errors


def test_prebuilt_dry_run(llmrun: Callable[..., Any]) -> None:
    done = llmrun("install", "llama-cpp", "--prebuilt", "--dry-run")
    assert done.code == 0
    lines = [shlex.split(line) for line in done.text.splitlines()]
    assert len(lines) == 3
    assert all(line[-1] == "llama-cpp-python==0.3.36" for line in lines)
    assert "--only-binary" in lines[0]


def test_a_wheel_that_is_not_for_this_machine(
    llmrun: Callable[..., Any], offline_pip: dict[str, str], tmp_path: Path
) -> None:
    """A ready wheel is tried before it is installed: this one dies as soon as it is loaded."""
    import zipfile

    wheel = tmp_path / "llama_cpp_python-0.3.36-py3-none-any.whl"
    info = "llama_cpp_python-0.3.36.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llama_cpp/__init__.py", "")
        archive.writestr("llama_cpp/llama_cpp.py", "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    done = llmrun("install", "llama-cpp", "--wheel", wheel, "--quiet", env=offline_pip)
    assert done.code == 6
    assert "the ready wheel does not work on this machine: it died of SIGILL" in done.errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("unknown",), "is not an engine that can be installed", id="engine"),
        pytest.param(("fake",), "is not an engine that can be installed", id="the engine of the tests"),
        pytest.param((), "ENGINE", id="nothing"),
        pytest.param(("llama-cpp", "--accelerator", "tpu"), "is not an accelerator", id="accelerator"),
        pytest.param(("llama-cpp", "--jobs", "0"), "--jobs", id="no jobs"),
        pytest.param(("llama-cpp", "--prebuilt", "--rebuild"), "do not go with it", id="prebuilt and rebuild"),
        pytest.param(("llama-cpp", "--prebuilt", "--wheel", "x.whl"), "give one of them", id="two wheels"),
        pytest.param(("llama-cpp", "--wheel", "/nowhere/x.whl"), "there is no such wheel file", id="missing wheel"),
        pytest.param(("pytorch", "--rebuild"), "--rebuild is for llama-cpp", id="rebuild of a ready package"),
    ],
)
def test_usage_errors(llmrun: Callable[..., Any], arguments: tuple[str, ...], words: str) -> None:
    done = llmrun("install", *arguments)
    assert (done.code, done.text) == (2, "")
    assert words in " ".join(done.errors.split())


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_whatever_ends_it_ends_pip_too(
    start_llmrun: Callable[..., subprocess.Popen[bytes]],
    clang: Path,
    offline_pip: dict[str, str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    import time

    import psutil

    source_archive(tmp_path / "packages", "unused", seconds=60)
    process = start_llmrun("install", "llama-cpp", env=offline_pip | {"PATH": str(clang)})
    assert process.stderr is not None
    while b"compiling" not in (line := process.stderr.readline()):
        assert line
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    deadline = time.monotonic() + 10
    while any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)
