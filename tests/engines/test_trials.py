"""The trials of the engines: every way a child can end becomes a sentence, and nothing that it started is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.trials import ctransformers, llama_cpp, pytorch, vllm
from llmrun.engines.trials.legacy_model import PROBE_TOKENS, legacy_gpt2, legacy_llama
from llmrun.engines.trials.process import LIFELINE, run_trial
from llmrun.engines.types import EngineName
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo

MACHINE = Machine(
    system="linux",
    python_version="3.12.1",
    cpu=CpuInfo(
        name="a processor",
        architecture="x86_64",
        physical_cores=3,
        logical_cores=6,
        affinity=6,
        quota=None,
        isa_flags=frozenset(),
    ),
    memory=MemoryInfo(total_bytes=1, available_bytes=1),
)
FACTS = EngineFacts(engine=EngineName.PYTORCH, installed=True, version="1")
TRIALS = [pytest.param(module, id=module.__name__.rpartition(".")[2]) for module in (llama_cpp, ctransformers, pytorch)]
TRIALS += [pytest.param(vllm, id="vllm")]


def child(folder: Path, script: str) -> str:
    """Write a program that stands in for the child's interpreter."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("module", TRIALS)
@pytest.mark.parametrize(
    ("script", "crashed", "cause"),
    [
        pytest.param(
            "kill -ILL $$",
            True,
            "it died of SIGILL: it uses an instruction that this CPU does not have, or has set up wrongly",
            id="illegal instruction",
        ),
        pytest.param("kill -SEGV $$", True, "it died of SIGSEGV: it read memory that is not its own", id="segfault"),
        pytest.param("kill -BUS $$", True, "it died of SIGBUS", id="bus error"),
        pytest.param("echo early >&2; echo 'OSError: no libomp' >&2; exit 1", False, "OSError: no libomp", id="error"),
        pytest.param("printf '%400s' x | tr ' ' x >&2; exit 1", False, "x" * 300, id="a very long line"),
        pytest.param("echo '{}'", False, "the child process answered '{}\\n'", id="an answer without content"),
        pytest.param("exec sleep 60", True, "one batch was not done within 0.3 s", id="hangs"),
    ],
)
def test_how_a_trial_ends(tmp_path: Path, module: ModuleType, script: str, crashed: bool, cause: str) -> None:
    seconds = 0.3 if "sleep" in script else 20.0
    found = module.try_engine(FACTS, MACHINE, python=child(tmp_path, script), timeout_seconds=seconds)
    assert (found.ok, found.crashed, found.cause) == (False, crashed, cause)


@pytest.mark.parametrize("module", TRIALS)
def test_a_trial_that_works(tmp_path: Path, module: ModuleType) -> None:
    answer = '{"features": "float32 on cpu", "gpu_offload": null}'
    found = module.try_engine(FACTS, MACHINE, python=child(tmp_path, f"echo noise; echo noise >&2; echo '{answer}'"))
    assert (found.ok, found.cause, found.features, found.gpu_offload) == (True, "", "float32 on cpu", None)


@pytest.mark.parametrize("module", TRIALS)
def test_what_a_child_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    told = tmp_path / "told"
    module.try_engine(FACTS, MACHINE, python=child(tmp_path, f'env > {told}; echo "$@" >> {told}; pwd >> {told}'))
    text = told.read_text()
    assert "secret" not in text
    assert "HF_HUB_OFFLINE=1" in text
    assert "-P -m llmrun.engines." in text
    scratch = Path(text.splitlines()[-1])
    assert scratch.name.startswith("llmrun-trial-")
    assert not scratch.exists()


def test_nothing_that_a_child_started_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grandchild holds the output open, ignores being asked to end, and outlives the child."""
    monkeypatch.setattr("llmrun.engines.trials.process._GRACE_SECONDS", 0.2)
    pid_file = tmp_path / "pid"
    script = f"(trap '' TERM; exec sleep 60) & echo $! > {pid_file}; echo nonsense"
    began = time.monotonic()
    found = run_trial("none", lambda _folder: (), python=child(tmp_path, script), timeout_seconds=30)
    assert found.cause == "the child process answered 'nonsense\\n'"
    assert time.monotonic() - began < 15
    assert ends(int(pid_file.read_text()))


def test_a_trial_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed while the engine computes."""
    pid_file = tmp_path / "pid"
    (tmp_path / "slow_trial.py").write_text(
        "import os, time, pathlib\n"
        "from llmrun.engines.trials.reporting import report\n"
        "def trial():\n"
        f"    part = pathlib.Path({str(pid_file)!r} + '.part')\n"
        "    part.write_text(str(os.getpid()))\n"
        f"    part.replace({str(pid_file)!r})\n"
        "    time.sleep(60)\n"
        "report(trial)\n"
    )
    program = "from llmrun.engines.trials.process import run_trial; run_trial('slow_trial', lambda folder: ())"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        wait_for(pid_file.exists)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert ends(int(pid_file.read_text()))


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        pytest.param("raise ValueError('bad\\nworse')", "ValueError: bad", id="an error of several lines"),
        pytest.param("raise KeyError", "KeyError", id="an error without words"),
        pytest.param("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'", id="missing"),
        pytest.param("raise RuntimeError('see above') from OSError('no disk')", "OSError: no disk", id="a root cause"),
        pytest.param("raise SystemExit('the model was refused')", "the model was refused", id="a refusal"),
        pytest.param(
            "import atexit; atexit.register(lambda: print('late')); raise OSError('gone')",
            "OSError: gone",
            id="late words",
        ),
    ],
)
def test_the_child_says_what_it_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, cause: str
) -> None:
    (tmp_path / "trial_that_raises.py").write_text(
        "import sys\nfrom llmrun.engines.trials.reporting import report\n"
        f"def trial():\n    {statement}\nreport(trial)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    found = run_trial("trial_that_raises", lambda _folder: ())
    assert (found.ok, found.crashed, found.cause) == (False, False, cause)


def test_what_the_child_prints_does_not_spoil_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trial_that_prints.py").write_text(
        "import sys\nfrom llmrun.engines.trials.reporting import report\n"
        "def trial():\n    print('loading', end='')\n    print('x' * 200_000, file=sys.stderr)\n"
        "    return {'features': 'all', 'gpu_offload': False}\nreport(trial)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    assert run_trial("trial_that_prints", lambda _folder: ()).features == "all"


@pytest.mark.parametrize(
    ("module", "package", "body", "cause"),
    [
        pytest.param(
            pytorch, "torch", "import no_numpy", "ModuleNotFoundError: No module named 'no_numpy'", id="pytorch"
        ),
        pytest.param(
            ctransformers, "ctransformers", "raise OSError('no library')", "OSError: no library", id="ctransformers"
        ),
        pytest.param(vllm, "vllm", "raise ImportError('torch is older')", "ImportError: torch is older", id="vllm"),
        pytest.param(
            pytorch,
            "torch",
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            "it died of SIGILL: it uses an instruction that this CPU does not have, or has set up wrongly",
            id="a library for another processor",
        ),
    ],
)
def test_a_broken_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, package: str, body: str, cause: str
) -> None:
    """The real child imports a package that stands in for the engine's own."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(body + "\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    assert module.try_engine(FACTS, MACHINE).cause == cause


def test_a_build_for_a_device_needs_the_device() -> None:
    cuda = EngineFacts(engine=EngineName.VLLM, installed=True, build=(("accelerator", "cuda 12.8"),))
    rocm = EngineFacts(engine=EngineName.VLLM, installed=True, build=(("accelerator", "rocm 6.3"),))
    processor = EngineFacts(engine=EngineName.VLLM, installed=True, build=(("accelerator", "cpu"),))
    gpu = GPU(vendor=GpuVendor.NVIDIA, name="a GPU", total_bytes=1, free_bytes=1)
    with_gpu = Machine(system="linux", python_version="3", cpu=MACHINE.cpu, memory=MACHINE.memory, gpus=(gpu,))
    assert vllm.cannot_try(cuda, MACHINE) == "cannot be tried without a CUDA device"
    assert vllm.cannot_try(rocm, with_gpu) == "cannot be tried without a ROCm device"
    assert vllm.cannot_try(cuda, with_gpu) is None
    assert vllm.cannot_try(processor, MACHINE) is None


def test_the_legacy_models_are_small_and_the_same_every_time() -> None:
    for make in (legacy_llama, legacy_gpt2):
        data = make()
        assert len(data) < 2_000_000
        assert data == make()
    assert legacy_llama()[:4] == b"tjgg"
    assert legacy_gpt2()[:4] == b"lmgg"
    assert PROBE_TOKENS == 259


def test_the_lifeline_is_named_for_the_child_only() -> None:
    assert LIFELINE not in os.environ


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends(pid: int) -> bool:
    """Return whether a process is gone, or only waits to be collected by somebody else, within five seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
