"""Building, trying, keeping and installing llama-cpp, with a made-up pip whose wheels crash when they are told to."""

import os
import shlex
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmrun.engines.install import llama_cpp as module
from llmrun.engines.install.commands import Installer
from llmrun.engines.install.llama_cpp import LlamaCppInstallation
from llmrun.engines.install.types import InstallRequest, InstallResult
from llmrun.engines.install.verify import Verification
from llmrun.engines.install.wheels import RECORD_MEMBER
from llmrun.engines.types import EngineName
from llmrun.errors import LlmrunError, NetworkError, NotEnoughMemoryError, NoUsableEngineError, StorageError
from llmrun.folders import cache_folder
from llmrun.hardware.types import Compiler, CpuInfo, Machine, MemoryInfo, Toolchain
from llmrun.progress import Unit

# A llama-cpp-python that decodes nothing: what the trial calls, and a crash where the environment asks for one.
FAKE_LIBRARY = """
import os, signal
if CRASHES:
    os.kill(os.getpid(), signal.SIGILL)
class Params: use_extra_bufts = True
loaded = []
llama_log_callback = ggml_abort_callback = lambda function: function
llama_log_set = lambda *arguments: None
llama_backend_init = lambda: None
llama_model_default_params = llama_context_default_params = Params
llama_model_load_from_file = lambda path, params: loaded.append(params.use_extra_bufts) or 1
llama_init_from_model = lambda *arguments: 1
llama_model_get_vocab = lambda model: 1
llama_vocab_n_tokens = lambda vocabulary: 4
llama_batch_get_one = lambda array, count: count
llama_decode = lambda context, batch: 0
llama_get_logits_ith = lambda context, index: LOGITS[::-1] if WRONG and loaded[-1] else LOGITS
llama_print_system_info = lambda: b"FAKE = 1" + b" | LLMRUN = Q4_1,Q5_0 |" * KERNELS
llama_supports_gpu_offload = lambda: False
"""

FAKE_PIP = """
import os, sys, zipfile
from pathlib import Path
arguments = sys.argv[1:]
with open(os.environ["FAKE_PIP_LOG"], "a") as log:
    log.write(" ".join(arguments) + "\\n")
if arguments[0] == "install":
    sys.exit(0)
built_before = Path(arguments[arguments.index("--cache-dir") + 1]) / "wheels" / "llama_cpp_python"
if built_before.exists():
    sys.exit("a wheel of other options would be taken")
built_before.mkdir(parents=True)
for line in os.environ.get("FAKE_PIP_OUTPUT", "  [1/2] CC x\\n  [2/2] CXX y").split("\\n"):
    print(line)
kernels = "-DLLMRUN_KERNELS=ON" in os.environ["CMAKE_ARGS"]
if os.environ.get("FAKE_PIP_FAILS") == ("kernels" if kernels else "1"):
    sys.exit(1)
wrong = kernels and "FAKE_KERNELS_ARE_WRONG" in os.environ
recipe = "native" if "-DGGML_NATIVE=ON" in os.environ["CMAKE_ARGS"] else "named"
crashes = recipe in os.environ.get("FAKE_CRASHES", "").split()
library = Path(os.environ["FAKE_LIBRARY"]).read_text()
folder = Path(arguments[arguments.index("--wheel-dir") + 1])
info = "llama_cpp_python-0.3.36.dist-info"
with zipfile.ZipFile(folder / "llama_cpp_python-0.3.36-py3-none-any.whl", "w") as wheel:
    wheel.writestr("llama_cpp/__init__.py", "")
    head = f"CRASHES, WRONG, KERNELS, LOGITS = {crashes}, {wrong}, {kernels}, {os.environ['FAKE_LOGITS']}\\n"
    wheel.writestr("llama_cpp/llama_cpp.py", head + library)
    wheel.writestr(info + "/RECORD", "llama_cpp/__init__.py,,\\n" + info + "/RECORD,,\\n")
"""


class Notes:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tasks: list[str] = []

    def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
        self.tasks.append(task)

    def advance(self, amount: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


class World:
    """One machine with a made-up pip."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.environment = monkeypatch
        self.log = folder / "pip.log"
        (folder / "pip.py").write_text(FAKE_PIP)
        (folder / "library.py").write_text(FAKE_LIBRARY)
        monkeypatch.setenv("LLMRUN_CACHE_DIR", str(folder / "cache"))
        monkeypatch.setenv("FAKE_PIP_LOG", str(self.log))
        monkeypatch.setenv("FAKE_LIBRARY", str(folder / "library.py"))
        monkeypatch.setenv("FAKE_LOGITS", "[0.5, 1.5, 2.5, 3.5]")
        monkeypatch.setattr(module, "read_installed_record", lambda: None)
        monkeypatch.setattr(module, "_missing_requirements", lambda: False)
        self.progress = Notes()

    def installation(self, *, flags: str = "avx2", compiler: Compiler | None = None, **request: Any) -> Any:
        cpu = CpuInfo(
            name="CPU",
            architecture="x86_64",
            physical_cores=2,
            logical_cores=2,
            affinity=2,
            quota=None,
            isa_flags=frozenset(flags.split()),
        )
        memory = MemoryInfo(total_bytes=8 << 30, available_bytes=8 << 30)
        clang = Compiler(family="clang", version=(19, 1, 7), cc="/bin/clang", cxx="/bin/clang++", openmp="libomp")
        return LlamaCppInstallation(
            request=InstallRequest(engine=EngineName.LLAMA_CPP, **request),
            machine=Machine(system="linux", python_version="3.11.7", cpu=cpu, memory=memory),
            toolchain=Toolchain(compilers=(compiler or clang,)),
            installer=Installer(
                pip=(sys.executable, str(self.folder / "pip.py")),
                install=(sys.executable, str(self.folder / "pip.py"), "install"),
            ),
            progress=self.progress,
            which=lambda name: "/bin/apt-get" if name == "apt-get" else None,
        )

    def run(self, **arguments: Any) -> InstallResult:
        result = self.installation(**arguments).run()
        assert isinstance(result, InstallResult)
        return result

    def calls(self, verb: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(verb)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def kept_wheels() -> list[Path]:
    return sorted(cache_folder("wheels").glob("*/*.whl"))


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

    class Interrupted(Notes):
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
