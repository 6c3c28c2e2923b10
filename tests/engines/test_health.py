"""An engine is tried once for each build and machine; what the trial shows is kept, unless it may change by itself."""

import os
import stat
import sys
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from llmrun.engines.install.verify import Verification
from llmrun.engines.installed.architectures import Architectures
from llmrun.engines.installed.facts import CRASHES, HEALTHY, UNKNOWN, EngineFacts, probe_engine
from llmrun.engines.installed.health import check_health, crash_fix, kept_health
from llmrun.engines.types import EngineName
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo
from llmrun.progress import Unit

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
        isa_flags=frozenset({"avx2", "fma"}),
    ),
    memory=MemoryInfo(total_bytes=1, available_bytes=1),
)
FACTS = EngineFacts(
    engine=EngineName.LLAMA_CPP,
    installed=True,
    version="0.3.36",
    build=(("recipe", "native"),),
    stamp="1",
    gpu_support=None,
)
GOOD = Verification(ok=True, features="AVX2 = 1", gpu_offload=True)
ILLEGAL = Verification(ok=False, crashed=True, cause="it died of SIGILL: it uses an instruction that is not here")


class Trial:
    """Stands in for the child process, and counts how often it would have been started."""

    def __init__(self, outcome: Verification) -> None:
        self.outcome = outcome
        self.threads: list[int] = []

    def __call__(self, folder: None, threads: int) -> Verification:
        self.threads.append(threads)
        return self.outcome


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Stand in for the engines that are asked what they support, and note whether again."""
    found: list[bool] = []

    def answer(engine: EngineName, version: str | None, *, again: bool) -> Architectures:
        found.append(again)
        return Architectures(supported=frozenset({f"{engine.value} {version}"}), source="installed")

    monkeypatch.setattr("llmrun.engines.installed.health.ask_architectures", answer)
    return found


def check(
    trial: Trial, facts: EngineFacts = FACTS, *, recheck: bool = False, machine: Machine = MACHINE
) -> EngineFacts:
    return check_health(facts.engine, facts, recheck, machine=machine, verify=trial)


def test_a_good_trial_is_kept_and_not_repeated(cache: Path) -> None:
    trial = Trial(GOOD)
    assert kept_health(FACTS, MACHINE) == FACTS
    first = check(trial)
    assert (first.health, first.health_detail, first.gpu_support) == (HEALTHY, "AVX2 = 1", True)
    assert check(trial) == first == kept_health(FACTS, MACHINE)
    assert trial.threads == [3]
    (kept,) = (cache / "health").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.name.startswith("llama-cpp-0.3.36-")


def test_a_crash_is_kept_with_its_cause() -> None:
    trial = Trial(ILLEGAL)
    assert (check(trial).health, check(trial).health_detail) == (CRASHES, ILLEGAL.cause)
    assert len(trial.threads) == 1
    assert kept_health(FACTS, MACHINE).health == CRASHES


@pytest.mark.parametrize(
    "cause",
    [
        pytest.param("it died of SIGKILL: it was killed, most likely because memory ran out", id="killed"),
        pytest.param("one batch was not done within 120 s", id="too slow"),
        pytest.param("OSError: libomp.so.5: cannot open shared object file", id="a library is missing"),
    ],
)
def test_what_may_change_by_itself_is_said_and_not_kept(cause: str) -> None:
    trial = Trial(Verification(ok=False, crashed=True, cause=cause))
    assert check(trial).health == CRASHES
    assert kept_health(FACTS, MACHINE).health == UNKNOWN
    check(trial)
    assert len(trial.threads) == 2


def test_recheck_forgets() -> None:
    check(Trial(ILLEGAL))
    assert check(Trial(GOOD), recheck=True).health == HEALTHY
    assert kept_health(FACTS, MACHINE).health == HEALTHY


@pytest.mark.parametrize(
    ("facts", "machine"),
    [
        pytest.param(replace(FACTS, version="0.3.37"), MACHINE, id="another version"),
        pytest.param(replace(FACTS, build=(("recipe", "no-amx"),)), MACHINE, id="another build"),
        pytest.param(replace(FACTS, stamp="2"), MACHINE, id="installed anew"),
        pytest.param(
            FACTS, replace(MACHINE, cpu=replace(MACHINE.cpu, isa_flags=frozenset({"fma"}))), id="another processor"
        ),
    ],
)
def test_anything_that_matters_asks_for_another_trial(facts: EngineFacts, machine: Machine) -> None:
    check(Trial(ILLEGAL))
    assert kept_health(facts, machine).health == UNKNOWN
    assert check(Trial(GOOD), facts, machine=machine).health == HEALTHY
    assert kept_health(FACTS, MACHINE).health == CRASHES


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"key": "other", "value": {"health": "healthy"}}'])
def test_a_damaged_record_is_as_good_as_none(cache: Path, text: str) -> None:
    check(Trial(GOOD))
    (kept,) = (cache / "health").iterdir()
    kept.write_text(text)
    assert kept_health(FACTS, MACHINE).health == UNKNOWN
    assert check(Trial(GOOD)).health == HEALTHY
    assert kept_health(FACTS, MACHINE).health == HEALTHY


def test_a_cache_that_cannot_be_written_costs_time_only(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert check(Trial(GOOD)).health == HEALTHY
    assert kept_health(FACTS, MACHINE).health == UNKNOWN


def test_what_is_not_installed_is_not_tried() -> None:
    trial = Trial(GOOD)
    missing = EngineFacts(engine=EngineName.LLAMA_CPP, installed=False)
    assert check(trial, missing) == missing
    assert trial.threads == []


@pytest.mark.parametrize("engine", [name for name in EngineName if name is not EngineName.FAKE])
def test_every_engine_is_tried_and_what_came_of_it_is_kept(engine: EngineName, asked: list[bool]) -> None:
    trial = Trial(ILLEGAL)
    facts = EngineFacts(engine=engine, installed=True, version="1.0", gpu_support=False)
    assert (check(trial, facts).health, check(trial, facts).health_detail) == (CRASHES, ILLEGAL.cause)
    assert len(trial.threads) == 1
    assert kept_health(facts, MACHINE).health == CRASHES
    assert check(Trial(GOOD), facts, recheck=True).health == HEALTHY


@pytest.mark.parametrize(
    ("engine", "cause", "fix"),
    [
        pytest.param(EngineName.LLAMA_CPP, ILLEGAL.cause, "llmrun install llama-cpp --rebuild", id="llama-cpp"),
        pytest.param(EngineName.LLAMA_CPP, "OSError: no file", "llmrun install llama-cpp --rebuild", id="no library"),
        pytest.param(
            EngineName.PYTORCH, "ModuleNotFoundError: no numpy", "llmrun install pytorch", id="missing package"
        ),
        pytest.param(EngineName.PYTORCH, ILLEGAL.cause, "--force-reinstall torch", id="pytorch"),
        pytest.param(EngineName.CTRANSFORMERS, ILLEGAL.cause, "CT_INSTRUCTIONS=basic", id="ctransformers"),
        pytest.param(EngineName.VLLM, ILLEGAL.cause, "llmrun install vllm", id="vllm"),
    ],
)
def test_every_crash_has_a_fix(engine: EngineName, cause: str, fix: str) -> None:
    assert fix in crash_fix(engine, cause)


def test_an_engine_without_its_device_is_not_tried_and_says_so(asked: list[bool]) -> None:
    trial = Trial(GOOD)
    facts = EngineFacts(engine=EngineName.VLLM, installed=True, version="1.0", build=(("accelerator", "cuda 12.8"),))
    found = check(trial, facts)
    assert (found.health, found.health_detail) == (UNKNOWN, "cannot be tried without a CUDA device")
    assert trial.threads == []
    gpu = GPU(vendor=GpuVendor.NVIDIA, name="a GPU", total_bytes=1, free_bytes=1, driver="1")
    assert check(trial, facts, machine=replace(MACHINE, gpus=(gpu,))).health == HEALTHY


def test_another_gpu_or_driver_asks_for_another_trial_of_what_uses_it(asked: list[bool]) -> None:
    gpu = GPU(vendor=GpuVendor.NVIDIA, name="a GPU", total_bytes=1, free_bytes=1, driver="1")
    old, new = (replace(MACHINE, gpus=(replace(gpu, driver=driver),)) for driver in "12")
    for engine, known in ((EngineName.PYTORCH, UNKNOWN), (EngineName.CTRANSFORMERS, HEALTHY)):
        facts = EngineFacts(engine=engine, installed=True, version="1.0")
        check(Trial(GOOD), facts, machine=old)
        assert kept_health(facts, old).health == HEALTHY
        assert kept_health(facts, new).health == known


def test_engines_that_know_it_are_asked_what_they_support(asked: list[bool]) -> None:
    vllm = EngineFacts(engine=EngineName.VLLM, installed=True, version="0.33.0")
    found = check(Trial(GOOD), vllm)
    assert (found.architectures, found.architectures_source) == (frozenset({"vllm 0.33.0"}), "installed")
    check(Trial(GOOD), vllm, recheck=True)
    assert asked == [False, True]
    check(Trial(GOOD), EngineFacts(engine=EngineName.CTRANSFORMERS, installed=True, version="0.2.27"))
    assert len(asked) == 2


def test_what_takes_time_is_announced_once(asked: list[bool]) -> None:
    class Tasks:
        def __init__(self) -> None:
            self.said: list[str] = []

        def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
            self.said.append(task)

        def advance(self, amount: int) -> None: ...

        def note(self, text: str) -> None: ...

        def finish(self) -> None:
            self.said.append("finished")

    tasks = Tasks()
    facts = EngineFacts(engine=EngineName.PYTORCH, installed=True, version="5.19.0")
    for _ in range(2):
        check_health(facts.engine, facts, machine=MACHINE, progress=tasks, verify=Trial(GOOD))
    first = ["asking pytorch what it supports, once", "finished", "trying pytorch, once", "finished"]
    assert tasks.said[:4] == first


def test_run_can_leave_the_cache_alone(cache: Path) -> None:
    probe_engine(EngineName.LLAMA_CPP, MACHINE, kept=False)
    assert not cache.exists()


_PACKAGES = {
    EngineName.LLAMA_CPP: ("llama_cpp",),
    EngineName.CTRANSFORMERS: ("ctransformers",),
    EngineName.PYTORCH: ("torch", "transformers"),
    EngineName.VLLM: ("vllm",),
}


@pytest.mark.engine
@pytest.mark.parametrize(
    "engine",
    [
        EngineName.LLAMA_CPP,
        EngineName.CTRANSFORMERS,
        pytest.param(EngineName.PYTORCH, marks=pytest.mark.slow),
        pytest.param(EngineName.VLLM, marks=pytest.mark.slow),
    ],
)
def test_the_installed_engine_is_tried_for_real(engine: EngineName) -> None:
    missing = [name for name in _PACKAGES[engine] if PathFinder.find_spec(name) is None]
    required = engine is EngineName.LLAMA_CPP and "LLMRUN_REQUIRE_ENGINES" in os.environ
    if missing and not required:
        pytest.skip(f"{engine.value} is not installed: {' and '.join(missing)} cannot be imported")
    machine = probe_machine()
    found = check_health(engine, probe_engine(engine, machine, path=sys.path), machine=machine)
    if found.health_detail == "cannot be tried without a CUDA device":
        pytest.skip(f"{engine.value} {found.health_detail}")
    assert (found.health, found.installed) == (HEALTHY, True), found.health_detail
    assert probe_engine(engine, machine, path=sys.path) == found
