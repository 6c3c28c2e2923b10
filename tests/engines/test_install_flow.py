"""Building, trying, keeping and installing llama-cpp, with a made-up pip whose wheels crash when they are told to."""

import os
import shlex
import signal
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest
from install_world import Notes, World, kept_wheels, world

from llmrun.engines.install import llama_cpp as module
from llmrun.engines.install.verify import Verification
from llmrun.engines.install.wheels import RECORD_MEMBER
from llmrun.errors import LlmrunError, NetworkError, NotEnoughMemoryError, NoUsableEngineError, StorageError
from llmrun.folders import cache_folder
from llmrun.hardware.types import Compiler, MemoryInfo

__all__ = ["world"]


def test_builds_tries_keeps_and_installs(world: World) -> None:
    result = world.run()
    (wheel,) = kept_wheels()
    assert result.changed
    assert result.build["recipe"] == "native"
    assert world.calls("install") == [f"install --no-deps --force-reinstall {wheel}"]
    assert world.progress.tasks == ["compiling llama-cpp 0.3.36", "trying one batch", "installing"]
    with zipfile.ZipFile(wheel) as archive:
        record = archive.read(RECORD_MEMBER).decode()
        listed = archive.read("llama_cpp_python-0.3.36.dist-info/RECORD").decode()
    assert '"compiler": "clang 19.1.7"' in record
    assert '"features": "FAKE = 1"' in record
    assert RECORD_MEMBER in listed
    assert not list(cache_folder("wheels").glob("*/building"))


def test_the_second_time_nothing_is_built(world: World) -> None:
    world.run()
    world.run()
    assert len(world.calls("wheel")) == 1
    assert len(world.calls("install")) == 2


def test_rebuild_builds_again(world: World) -> None:
    world.run()
    world.run(rebuild=True)
    assert len(world.calls("wheel")) == 2
    assert len(kept_wheels()) == 1


def test_another_cpu_or_compiler_is_another_wheel(world: World) -> None:
    world.run()
    world.run(flags="avx2 avx512f")
    world.run(compiler=Compiler(family="gcc", version=(14, 1, 0), cc="/bin/gcc", cxx="/bin/g++", openmp="libgomp"))
    assert len(kept_wheels()) == len(world.calls("wheel")) == 3


def test_a_build_that_crashes_is_not_kept_and_a_safer_one_is_built(world: World) -> None:
    world.environment.setenv("FAKE_CRASHES", "native")
    result = world.run(flags="avx2 amx_tile")
    assert result.build["recipe"] == "no-amx"
    assert len(world.calls("wheel")) == 2
    (wheel,) = kept_wheels()
    assert "no-amx" in wheel.parent.name
    assert any("the native build fails here: it died of SIGILL" in note for note in world.progress.notes)


def test_a_build_that_crashed_is_not_built_again(world: World) -> None:
    world.environment.setenv("FAKE_CRASHES", "native")
    world.run()
    world.run()
    assert len(world.calls("wheel")) == 2
    assert any("the native build is known to fail here" in note for note in world.progress.notes)
    world.environment.setenv("FAKE_CRASHES", "")
    assert world.run(rebuild=True).build["recipe"] == "native"


def test_when_every_build_crashes_nothing_is_installed(world: World) -> None:
    world.environment.setenv("FAKE_CRASHES", "native named")
    with pytest.raises(NoUsableEngineError) as caught:
        world.run(flags="avx2 amx_tile")
    assert caught.value.message.count("it died of SIGILL") == 3
    assert caught.value.fix == "apt-get install clang-19 libomp-19-dev"
    assert kept_wheels() == []
    assert world.calls("install") == []


def test_wrong_results_are_no_crash_and_not_installed_either(world: World) -> None:
    world.environment.setenv("FAKE_LOGITS", "[float('nan')] * 4")
    with pytest.raises(NoUsableEngineError, match="native: the logits are not finite numbers"):
        world.run()
    assert len(world.calls("wheel")) == 1
    assert kept_wheels() == []
    assert world.calls("install") == []


VNNI = "avx2 avx512f avx512cd avx512vl avx512dq avx512bw avx512_vnni"


def test_kernels_are_built_where_the_processor_can_run_them(world: World) -> None:
    result = world.run(flags=VNNI)
    assert result.build["recipe"] == "native-kernels"
    (wheel,) = kept_wheels()
    with zipfile.ZipFile(wheel) as archive:
        assert '"kernels": "Q4_1 Q5_0"' in archive.read(RECORD_MEMBER).decode()


def test_a_llama_cpp_that_the_kernels_do_not_fit_is_used_without(world: World) -> None:
    library = world.folder / "library.py"
    library.write_text(library.read_text().replace("LLMRUN = ", "OTHER = "))
    world.run(flags=VNNI)
    (wheel,) = kept_wheels()
    with zipfile.ZipFile(wheel) as archive:
        assert '"kernels": ""' in archive.read(RECORD_MEMBER).decode()
    assert any("do not fit this version of llama.cpp" in note for note in world.progress.notes)


def test_kernels_are_left_out_when_asked(world: World) -> None:
    world.run(flags=VNNI)
    result = world.run(flags=VNNI, kernels=False)
    assert result.build["recipe"] == "native"
    assert len(kept_wheels()) == len(world.calls("wheel")) == 2


@pytest.mark.parametrize(
    ("variable", "value", "cause"),
    [
        pytest.param("FAKE_KERNELS_ARE_WRONG", "1", "repacked weights give other logits than plain ones", id="wrong"),
        pytest.param("FAKE_PIP_FAILS", "kernels", "could not be installed", id="not compiled"),
    ],
)
def test_kernels_that_do_not_work_are_left_out(world: World, variable: str, value: str, cause: str) -> None:
    world.environment.setenv(variable, value)
    result = world.run(flags=VNNI)
    assert result.build["recipe"] == "native"
    (wheel,) = kept_wheels()
    assert "native-kernels" not in wheel.parent.name
    assert any("the native-kernels build fails here" in note and cause in note for note in world.progress.notes)
    world.run(flags=VNNI)
    assert len(world.calls("wheel")) == 2


def test_the_sources_of_the_kernels_are_part_of_the_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(flags=VNNI)
    changed = world.folder / "kernels"
    changed.mkdir()
    (changed / "multiply.h").write_text("// other arithmetic")
    monkeypatch.setattr(module, "_KERNELS_FOLDER", changed)
    world.run(flags=VNNI)
    world.run(flags="avx2")
    assert len(kept_wheels()) == len(world.calls("wheel")) == 3


def test_a_kept_wheel_that_stopped_working_is_built_again(world: World) -> None:
    world.run()
    kept_wheels()[0].write_bytes(b"not a zip file")
    world.run()
    assert any("is not a wheel, or is damaged" in note for note in world.progress.notes)
    assert len(world.calls("wheel")) == 2
    assert zipfile.is_zipfile(kept_wheels()[0])


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        ("CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage", NoUsableEngineError, "C++ compiler"),
        ("ld: final link failed: No space left on device", StorageError, "the disk is full"),
        ("g++: fatal error: Killed signal terminated program cc1plus", NotEnoughMemoryError, "ran out of memory"),
        ("Could not fetch URL x: connection error: timed out", NetworkError, "from the package index failed"),
        (
            "ERROR: No matching distribution found for x",
            NoUsableEngineError,
            "the configured package index does not have",
        ),
        ("error: externally-managed-environment", NoUsableEngineError, "which the system manages"),
        ("ops.cpp:7:1: error: unknown type name 'foo'", NoUsableEngineError, "unknown type name 'foo'"),
        ("", NoUsableEngineError, "could not be installed"),
    ],
)
def test_a_failing_build_says_why(world: World, output: str, error: type[LlmrunError], words: str) -> None:
    world.environment.setenv("FAKE_PIP_OUTPUT", f"  [1/9] CC a.c\n{output}")
    world.environment.setenv("FAKE_PIP_FAILS", "1")
    with pytest.raises(error) as caught:
        world.run()
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert len(world.calls("wheel")) == 1
    (log,) = cache_folder("logs").glob("install-llama-cpp-*.log")
    assert output in log.read_text()


def test_dry_run_shows_the_command_that_is_run(world: World) -> None:
    shown = world.run(dry_run=True)
    assert world.calls("") == []
    assert not shown.changed
    assert len(shown.commands) == 2
    rendered = shown.commands[0].render()
    assert rendered.startswith("CC=/bin/clang CXX=/bin/clang++ CMAKE_ARGS=")
    world.run()
    (log,) = cache_folder("logs").glob("*.log")
    assert f"$ {rendered}\n" in log.read_text()
    assert world.calls("wheel") == [shlex.join(shown.commands[0].argv[2:])]


def test_dry_run_knows_the_kept_wheel(world: World) -> None:
    world.run()
    shown = world.run(dry_run=True)
    assert [command.argv[-1] for command in shown.commands] == [str(kept_wheels()[0])]
    assert any("--rebuild" in note for note in world.progress.notes)
    assert len(world.run(dry_run=True, rebuild=True).commands) == 2


def test_an_installed_build_is_left_alone(world: World) -> None:
    world.run()
    key = kept_wheels()[0].parent.name
    world.environment.setattr(module, "read_installed_record", lambda: {"key": key})
    world.environment.setattr(module, "verify_build", lambda *_: Verification(ok=True))
    result = world.run()
    assert not result.changed
    assert len(world.calls("install")) == 1


@pytest.mark.parametrize(
    ("jobs", "available_gib", "expected"),
    [(None, 8, "2"), (None, 1, "1"), (None, 0, "1"), (7, 8, "7")],
)
def test_jobs(world: World, jobs: int | None, available_gib: int, expected: str) -> None:
    from dataclasses import replace

    installation = world.installation(jobs=jobs, dry_run=True)
    memory = MemoryInfo(total_bytes=64 << 30, available_bytes=available_gib << 30)
    installation = replace(installation, machine=replace(installation.machine, memory=memory))
    variables = dict(installation.run().commands[0].variables)
    assert variables["CMAKE_BUILD_PARALLEL_LEVEL"] == expected


def test_too_little_space_is_said_before_anything_is_fetched(world: World) -> None:
    import shutil

    world.environment.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(StorageError, match="needs 2 GiB"):
        world.run()
    assert world.calls("") == []


def test_two_builds_at_once_wait_for_each_other(world: World) -> None:
    lock = cache_folder("wheels") / "build.lock"
    holder = (
        f"import filelock, sys, time\nwith filelock.FileLock({str(lock)!r}):\n"
        "    print('held', flush=True)\n    time.sleep(0.5)\n"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        world.run()
    assert world.progress.notes == ["another llmrun is building an engine; waiting for it"]


def test_a_build_that_is_interrupted_leaves_nothing_behind(world: World) -> None:
    world.environment.setenv("FAKE_PIP_OUTPUT", "  [1/9] CC a.c")

    class Interrupted(Notes):  # type: ignore[misc]
        def advance(self, amount: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    world.progress = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert kept_wheels() == []
    assert not list(cache_folder("wheels").glob("*/building"))
    world.progress = Notes()
    world.run()
    assert len(kept_wheels()) == 1
