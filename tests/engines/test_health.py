"""An engine is tried once for each build and machine; what the trial shows is kept, unless it may change by itself."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engines.architectures import Architectures
from llmrun.engines.facts import CRASHES, HEALTHY, UNKNOWN, EngineFacts, probe_engine
from llmrun.engines.health import check_health, kept_health
from llmrun.engines.install.verify import Verification
from llmrun.engines.types import EngineName
from llmrun.hardware.types import CpuInfo, Machine, MemoryInfo

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


def test_what_is_not_installed_or_not_driven_is_not_tried() -> None:
    trial = Trial(GOOD)
    missing = EngineFacts(engine=EngineName.LLAMA_CPP, installed=False)
    assert check(trial, missing) == missing
    ctransformers = EngineFacts(engine=EngineName.CTRANSFORMERS, installed=True, version="0.2.27")
    assert check(trial, ctransformers).health == UNKNOWN
    assert "was not tried" in (check(trial, ctransformers).health_detail or "")
    assert trial.threads == []


def test_an_engine_that_is_not_driven_is_asked_what_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def answer(engine: EngineName, version: str | None, *, again: bool) -> Architectures:
        asked.append(again)
        return Architectures(supported=frozenset({f"{engine.value} {version}"}), source="installed")

    monkeypatch.setattr("llmrun.engines.health.ask_architectures", answer)
    vllm = EngineFacts(engine=EngineName.VLLM, installed=True, version="0.33.0")
    found = check(Trial(GOOD), vllm)
    assert (found.architectures, found.architectures_source) == (frozenset({"vllm 0.33.0"}), "installed")
    check(Trial(GOOD), vllm, recheck=True)
    assert asked == [False, True]


def test_run_can_leave_the_cache_alone(cache: Path) -> None:
    probe_engine(EngineName.LLAMA_CPP, MACHINE, kept=False)
    assert not cache.exists()


@pytest.mark.engine
def test_the_installed_engine_is_tried_for_real() -> None:
    from llmrun.hardware.machine import probe_machine

    machine = probe_machine()
    facts = probe_engine(EngineName.LLAMA_CPP, machine)
    found = check_health(EngineName.LLAMA_CPP, facts)
    assert (found.health, found.installed) == (HEALTHY, True)
    assert probe_engine(EngineName.LLAMA_CPP, machine) == found
