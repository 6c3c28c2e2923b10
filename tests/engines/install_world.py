"""A machine with a made-up pip, whose wheels crash when they are told to."""

import sys
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.install import llama_cpp as module
from llmrun.engines.install.commands import Installer
from llmrun.engines.install.llama_cpp import LlamaCppInstallation
from llmrun.engines.install.types import InstallRequest, InstallResult
from llmrun.engines.types import EngineName
from llmrun.folders import cache_folder
from llmrun.hardware.types import Compiler, CpuInfo, Machine, MemoryInfo, Toolchain
from llmrun.progress import Unit

__all__ = ["Notes", "World", "kept_wheels", "world"]

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
